"""Who may open a session at which provider: shared by all workers of a pool over the bus."""
