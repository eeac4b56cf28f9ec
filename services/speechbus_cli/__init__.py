"""The `speechbus` command."""
