"""Garbage for every parser and every door; see `__main__`."""
