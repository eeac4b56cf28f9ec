"""What stands before the doors: addresses, origins, limits on connections, TLS."""
