"""Joins finals with their translations into captions."""
