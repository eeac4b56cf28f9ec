"""Takes live audio in at the doors, numbers it and publishes it on the bus."""
