"""Stands in for one program of Apertium's: upper case, a zero byte for each zero byte.

It checks its arguments, and goes wrong on words: `sleep` never answers, `die` ends it.
"""

import sys

assert sys.argv[1:] == ["-z", "-n", "file with blanks"], sys.argv
source, sink = sys.stdin.buffer, sys.stdout.buffer
text = b""
while byte := source.read(1):
    if byte != b"\0":
        text += byte
        continue
    if b"sleep" in text:
        sys.stdin.read()
    if b"die" in text:
        sys.exit(1)
    sink.write(text.upper() + b"\0")
    sink.flush()
    text = b""
