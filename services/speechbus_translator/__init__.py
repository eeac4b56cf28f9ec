"""Translates finals of streams whose provider does not."""
