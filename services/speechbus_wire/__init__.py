"""The vendors' wire messages, both directions, as pure values."""
