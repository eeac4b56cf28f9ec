"""The page in a real browser, against a scripted server on a real socket."""
