"""What clients send, made into what travels: PCM s16le mono."""
