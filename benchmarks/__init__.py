"""Measurements of cost and latency; `make bench` runs the main one."""
