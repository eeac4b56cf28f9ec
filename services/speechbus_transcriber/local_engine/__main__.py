"""Starts the local engine: `python -m speechbus_transcriber.local_engine --socket PATH`."""

import argparse
import os
import socket
from pathlib import Path
from typing import Final

from speechbus_runtime.fork_server import ForkServer
from speechbus_runtime.process_limits import die_with_parent, limit_memory
from speechbus_transcriber.providers import local_wire as wire

DATA_BYTES_MAX: Final = 512 << 20
"""Private writable memory of one session, twice what one needs: the kernel counts 160 MB after the
models are loaded, Silero reserves 90 MB and hardly touches them, an utterance of 20 s adds 7 MB.
Beyond the limit PocketSphinx aborts: one session ends instead of the machine swapping."""
SESSIONS_PER_CORE = 8
"""A core carries 8 to 10 live sessions; beyond that all of them fall behind."""


def main() -> None:
    """Load the models, print `ready`, and serve sessions until SIGTERM."""
    parent_pid = os.getppid()
    parser = argparse.ArgumentParser(prog="python -m speechbus_transcriber.local_engine")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--vad", choices=["silero", "webrtc"], default="silero")
    parser.add_argument(
        "--sessions-max",
        type=int,
        default=SESSIONS_PER_CORE * (os.cpu_count() or 1),
        help="sessions at a time (default: 8 per core)",
    )
    arguments = parser.parse_args()
    die_with_parent(parent_pid)
    # Before their libraries are loaded, which read this once. numpy's linear algebra would start
    # threads, and forking from a process with threads is not safe. Silero asks for four, which
    # spend ten times its own work on waiting for each other: 35 ms of CPU per second of audio
    # instead of 3.5, with the same result; it overrules OMP_NUM_THREADS, but not this limit.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    os.putenv("OMP_THREAD_LIMIT", "1")
    _serve(arguments.socket, arguments.vad, arguments.sessions_max)


def _serve(socket_path: Path, vad: str, sessions_max: int) -> None:
    from speechbus_transcriber.local_engine.decoder import Decoder
    from speechbus_transcriber.local_engine.session import serve_session
    from speechbus_transcriber.local_engine.voice_activity import VOICE_ACTIVITIES

    decoder = Decoder.load()  # once; this process itself never uses it
    open_voice = VOICE_ACTIVITIES[vad]

    def serve(connection: socket.socket) -> None:
        serve_session(connection, decoder, open_voice())

    ForkServer(
        socket_path,
        serve=serve,
        limit_child=lambda: limit_memory(DATA_BYTES_MAX),
        refusal=wire.encode_frame(wire.encode_message(wire.Error(code="engine_full"))),
        children_max=sessions_max,
    ).run()


if __name__ == "__main__":
    main()
