"""A provider's simulator that dies and comes back at its address, with another script."""

import subprocess
from pathlib import Path
from typing import Final

from speechbus_cli.die_with_parent import build_command
from speechbus_cli.embedded_nats import choose_port
from tests.support.command_line import COMMAND, build_environment

__all__ = ["Simulator"]

HOST: Final = "127.0.0.1"
START_TRIES: Final = 20


class Simulator:
    """One simulator. All calls block.

    Args:
        provider: `palabra` or `kotoba`.
        folder: gets its scripts and its log; exists.
    """

    def __init__(self, provider: str, folder: Path) -> None:
        self.provider = provider
        self.variables: dict[str, str] = {}
        """Lead a transcriber to it; known after the first start."""
        self.lives = 0
        self.log_path = folder / f"{provider}.log"
        self._folder = folder
        self._port = choose_port(HOST, 0)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running simulator."""
        assert self._process is not None
        return self._process.pid

    def start(self, script: str) -> None:
        """Start it with a script; return when it listens."""
        self.lives += 1
        path = self._folder / f"{self.provider}-{self.lives}.toml"
        path.write_text(script, encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                build_command(
                    [
                        *(*COMMAND, "simulate", self.provider),
                        *("--listen", f"{HOST}:{self._port}", "--script", str(path)),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=build_environment(PYTHONUNBUFFERED="1"),
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode().strip()
            if text.startswith("ready"):
                return
            name, _, value = text.partition("=")
            self.variables[name] = value
        raise RuntimeError(f"the simulator of {self.provider} did not start: see {self.log_path}")

    def kill(self) -> None:
        """End it with SIGKILL, as an outage of the provider."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def end(self) -> None:
        """End it, if it runs."""
        if self.is_running:
            self.kill()
