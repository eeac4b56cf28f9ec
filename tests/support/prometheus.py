"""A real Prometheus with the project's rules, for as long as a test needs it."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from speechbus_cli.embedded_nats import choose_port

__all__ = ["Prometheus"]

RULES: Final = Path(__file__).parents[2] / "deploy" / "observability" / "alerts.yaml"
PATIENCE_S: Final = 60.0
POLL_S: Final = 0.1


class Prometheus:
    """Scrapes and evaluates every second; a context manager.

    Args:
        binary: its path.
        folder: gets its configuration, log and data; exists.
        ports: of `/metrics` on loopback, by job.
    """

    def __init__(self, binary: str, folder: Path, ports: Mapping[str, int]) -> None:
        self._port = choose_port("127.0.0.1", 0)
        config = folder / "prometheus.yml"
        scraped = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in ports.items()
        ]
        config.write_text(
            json.dumps(  # which is YAML, too
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": scraped,
                }
            )
        )
        self._command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._log = folder / "prometheus.log"

    def ask(self, path: str) -> Any:  # noqa: ANN401 (JSON)
        """Return the `data` of an answer of its API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def wait_for(self, path: str, is_wanted: Callable[[Any], bool]) -> Any:  # noqa: ANN401
        """Ask until the answer is the wanted one; return it, or the last one after a minute."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.ask(path)
            except OSError:  # it has not started yet
                answer = None
            if (answer is not None and is_wanted(answer)) or time.monotonic() > until_s:
                return answer
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
