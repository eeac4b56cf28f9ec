"""What every service runs on: bus, life cycle, telemetry, health and settings."""
