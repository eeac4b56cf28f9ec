"""Providers' servers with scripted faults, for tests without a key."""
