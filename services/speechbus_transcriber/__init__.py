"""Turns a stream's audio into segments by way of a provider's session."""
