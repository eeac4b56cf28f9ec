"""Decodes clients' containers: `python -m speechbus_ingest.formats.decoder_process --socket PATH`.

One process loads FFmpeg and forks a child for each stream. A child may start nothing, open nothing
and write nothing; memory, and the time it spends on a piece of audio, are limited by the kernel.
"""

import argparse
import os
from pathlib import Path
from typing import Final

from speechbus_ingest.formats.decoder_wire import Kind, encode_frame
from speechbus_runtime.fork_server import ForkServer
from speechbus_runtime.process_limits import die_with_parent

__all__ = ["main"]

ENDING_MAX: Final = 16
"""Children that are just ending, beside those whose streams are counted."""


def main() -> None:
    """Load FFmpeg, print `ready`, and serve streams until SIGTERM."""
    parent_pid = os.getppid()
    parser = argparse.ArgumentParser(prog="python -m speechbus_ingest.formats.decoder_process")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--streams-max", type=int, required=True, help="streams at a time")
    arguments = parser.parse_args()
    die_with_parent(parent_pid)
    # numpy's linear algebra would start threads, and forking with threads is not safe.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    _serve(arguments.socket, arguments.streams_max)


def _serve(socket_path: Path, streams_max: int) -> None:
    from speechbus_ingest.formats.decoder_session import limit_process, prepare, serve_stream

    prepare()
    ForkServer(
        socket_path,
        serve=serve_stream,
        limit_child=limit_process,
        refusal=encode_frame(Kind.FAILED, b"crashed"),
        children_max=streams_max + ENDING_MAX,
    ).run()


if __name__ == "__main__":
    main()
