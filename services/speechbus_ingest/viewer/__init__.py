"""The page that shows transcripts, and what it reads: the list of streams, and live feeds."""
