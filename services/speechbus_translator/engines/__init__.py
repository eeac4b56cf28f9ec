"""What can translate a text, one module each."""
