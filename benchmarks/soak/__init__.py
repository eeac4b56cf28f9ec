"""A randomized soak: anything breaks at any time, and then the stored transcript is read."""
