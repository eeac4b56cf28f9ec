"""What is lost, doubled, mistimed or late when something breaks."""
