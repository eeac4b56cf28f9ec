"""Real servers, recordings and faulty links that several tests need."""
