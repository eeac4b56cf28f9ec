"""Providers' protocols as pure state machines: no socket, no clock, no task."""
