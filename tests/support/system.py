"""The whole system as real processes, for tests and benchmarks to start, kill and freeze."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from speechbus_cli.die_with_parent import build_command
from speechbus_cli.embedded_nats import choose_port
from tests.support.command_line import COMMAND, build_environment
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import build_secured_nats, find_violations, login_settings

__all__ = ["Service", "ServiceError", "System"]

HOST: Final = "127.0.0.1"
READY_TIMEOUT_S: Final = 60.0
"""Usually half a second; several processes that start together on a busy machine need more."""
STOP_TIMEOUT_S: Final = 40.0
"""Beyond the longest drain that a test sets; past this the service hangs."""
POLL_INTERVAL_S: Final = 0.02
LOG_LINES: Final = 15
"""Of each service, in the report of a failed test."""

ServiceKind = Literal["ingest", "transcriber", "correlator", "translator"]

PORT_SETTINGS: Final[Mapping[ServiceKind, str]] = {
    "ingest": "LISTEN_PORT",
    "transcriber": "HEALTH_PORT",
    "correlator": "HEALTH_PORT",
    "translator": "HEALTH_PORT",
}
FIRST_TO_START: Final[tuple[ServiceKind, ...]] = (
    "correlator",
    "translator",
    "transcriber",
    "ingest",
)


class ServiceError(Exception):
    """A service did not start or stop as asked; the text ends with the last lines of its log."""


class Service:
    """One process of a service; port and log stay the same through all its restarts.

    All calls block. The process dies with the thread that started it, even when that thread is
    killed (Linux only), so start it from a thread that lasts.
    """

    def __init__(
        self,
        kind: ServiceKind,
        *,
        name: str,
        folder: Path,
        port: int,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> None:
        """Prepare a service; nothing runs before `start`.

        Args:
            kind: which one.
            name: names the log, for example `transcriber-2`.
            folder: gets the log; exists.
            port: for its probes, and for all of ingest.
            settings: by name without `SPEECHBUS_<SERVICE>_`; kept for restarts.
            environment: variables of other names.
        """
        self._environment = environment
        self.name = name
        self.port = port
        self.log_path = folder / f"{name}.log"
        self._kind = kind
        self._settings = {**settings, PORT_SETTINGS[kind]: str(port)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running service."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and return when it is ready.

        Raises:
            ServiceError: it exited, or was not ready within `READY_TIMEOUT_S`.
        """
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start it and return at once, to start several side by side."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        prefix = f"SPEECHBUS_{self._kind.upper()}_"
        variables = {f"{prefix}{name}": value for name, value in self._settings.items()}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                build_command([*COMMAND, self._kind]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=build_environment(**variables, **self._environment),
            )

    def wait_until_ready(self) -> None:
        """Return when `/readyz` says so.

        Raises:
            ServiceError: it exited, or was not ready within `READY_TIMEOUT_S`.
        """
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            code = self._running().poll()
            if code is not None:
                raise ServiceError(f"{self.name} exited with {code}\n{self.read_log_end()}")
            if self.probe("/readyz") == 200:
                return
            time.sleep(POLL_INTERVAL_S)
        raise ServiceError(
            f"{self.name} not ready after {READY_TIMEOUT_S} s\n{self.read_log_end()}"
        )

    def probe(self, path: str) -> int | None:
        """Return the status of `GET path`; None: no answer within a second."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        process = self._running()
        process.kill()
        process.wait()

    def request_stop(self) -> None:
        """Send SIGTERM and return at once, to watch it drain."""
        self._running().terminate()

    def wait_for_exit(self) -> int:
        """Return the exit code.

        Raises:
            ServiceError: it did not end within `STOP_TIMEOUT_S`; it was killed then.
        """
        try:
            return self._running().wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceError(
                f"{self.name} did not end within {STOP_TIMEOUT_S} s\n{self.read_log_end()}"
            ) from None

    def stop(self) -> int:
        """End it with SIGTERM; return the exit code, 0 after a clean end.

        Raises:
            ServiceError: it did not end within `STOP_TIMEOUT_S`; it was killed then.
        """
        self.request_stop()
        return self.wait_for_exit()

    def freeze(self) -> None:
        """Stop it where it stands (SIGSTOP); return when it no longer runs."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let a frozen service run on."""
        os.kill(self.pid, signal.SIGCONT)

    def read_log_end(self) -> str:
        """Return the last lines of its log."""
        if not self.log_path.exists():
            return f"{self.name} has written no log"
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([f"end of {self.log_path}:", *lines[-LOG_LINES:]])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process


class System:
    """nats-server, its JetStream objects, and the services, on loopback.

    A context manager: everything is ready when the block starts and gone when it ends (killed; call
    `Service.stop` where a clean end matters). A failed block's error carries the ends of the logs.
    """

    tenant = "acme"
    key = "test-key"
    """API key of `tenant`, unless `ingest_settings` has others."""

    def __init__(
        self,
        folder: Path,
        *,
        ingests: int = 1,
        transcribers: int = 1,
        correlators: int = 0,
        translators: int = 0,
        ingest_settings: Mapping[str, str] | None = None,
        transcriber_settings: Mapping[str, str] | None = None,
        correlator_settings: Mapping[str, str] | None = None,
        translator_settings: Mapping[str, str] | None = None,
        bootstrap_settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        nats_config: Path | None = None,
        cluster: NatsCluster | None = None,
    ) -> None:
        """Prepare a system; nothing runs before `start`.

        Args:
            folder: gets the store and all logs; created when missing.
            ingests: how many to start with.
            transcribers: how many to start with; they have the echo provider unless told otherwise.
            correlators: how many to start with.
            translators: how many to start with.
            ingest_settings: by name without `SPEECHBUS_INGEST_`, for example `{"CHUNK_MS": "320"}`.
            transcriber_settings: likewise.
            correlator_settings: likewise.
            translator_settings: likewise.
            bootstrap_settings: likewise, of `speechbus bootstrap`.
            environment: variables of other names, for all services.
            nats_config: of the one server `nats`; None: the production configuration, and each
                service has its user. Whoever shows no user, as tests do, may look at everything.
            cluster: to use instead of the one server `nats`.
        """
        self._has_users = nats_config is None
        self.nats = (
            build_secured_nats(folder / "nats", has_guest=True)
            if nats_config is None
            else NatsServer(folder / "nats", config=nats_config)
        )
        self.cluster = cluster
        self._bus = cluster or self.nats
        self.ingests: list[Service] = []
        self.transcribers: list[Service] = []
        self.correlators: list[Service] = []
        self.translators: list[Service] = []
        self._folder = folder
        self._ports: set[int] = set()
        self._counts: Mapping[ServiceKind, int] = {
            "ingest": ingests,
            "transcriber": transcribers,
            "correlator": correlators,
            "translator": translators,
        }
        self._settings: Mapping[ServiceKind, Mapping[str, str]] = {
            "ingest": {
                "API_KEYS": f"{self.tenant}:{self.key}",
                "DRAIN_S": "5",
                "DECODERS_MAX": "0",  # loading FFmpeg takes time that few tests need
                **(ingest_settings or {}),
            },
            "transcriber": {"PROVIDERS": "echo", "DRAIN_S": "5", **(transcriber_settings or {})},
            "correlator": correlator_settings or {},
            "translator": {"ENGINES": "libretranslate", **(translator_settings or {})},
        }
        self._bootstrap_settings = bootstrap_settings or {}
        self._environment = environment or {}

    @property
    def ingest(self) -> Service:
        """The first ingest."""
        return self.ingests[0]

    @property
    def ingest_port(self) -> int:
        """Port of the first ingest."""
        return self.ingest.port

    @property
    def services(self) -> list[Service]:
        """All services, running or not."""
        return [*self.correlators, *self.translators, *self.transcribers, *self.ingests]

    def start(self) -> None:
        """Start everything and return when all of it is ready.

        Raises:
            ServiceError: a service or the bootstrap failed.
            NatsServerError: NATS did.
        """
        self._bus.start()
        self.bootstrap()
        added = [
            self._add(kind, self._settings[kind])
            for kind in FIRST_TO_START
            for _ in range(self._counts[kind])
        ]
        for service in added:
            service.spawn()
        for service in added:
            service.wait_until_ready()

    def bootstrap(self, **settings: str) -> None:
        """Create the JetStream objects.

        Args:
            settings: on top of those of the system, by name without `SPEECHBUS_BOOTSTRAP_`.

        Raises:
            ServiceError: it could not.
        """
        prefix = "SPEECHBUS_BOOTSTRAP_"
        all_settings = {**self._login("bootstrap"), **self._bootstrap_settings, **settings}
        variables = {f"{prefix}{name}": value for name, value in all_settings.items()}
        done = subprocess.run(
            [*COMMAND, "bootstrap", "--nats-url", self._bus.url],
            capture_output=True,
            env=build_environment(**variables),
            timeout=READY_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError(f"bootstrap failed:\n{done.stderr.decode(errors='replace')}")

    def add_service(self, kind: ServiceKind, **settings: str) -> Service:
        """Start one more service and return when it is ready.

        Args:
            kind: which one.
            settings: on top of those of the system, by name without `SPEECHBUS_<SERVICE>_`.

        Raises:
            ServiceError: it exited, or was not ready in time.
        """
        service = self._add(kind, {**self._settings[kind], **settings})
        service.start()
        return service

    def end(self) -> None:
        """Kill what runs, against the flow of the data."""
        for service in reversed(self.services):
            if service.is_running:
                service.kill()
        try:
            self._bus.kill()
        except RuntimeError:
            return  # a test has ended it, and not started it again

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        if error is None:
            servers = [self.nats] if self.cluster is None else self.cluster.nodes
            denied = [line for server in servers for line in find_violations(server.log_path)]
            assert denied == [], "a service lacks a right: deploy/nats/users.conf"
        else:
            for service in self.services:
                error.add_note(service.read_log_end())

    def _add(self, kind: ServiceKind, settings: Mapping[str, str]) -> Service:
        services = {
            "ingest": self.ingests,
            "transcriber": self.transcribers,
            "correlator": self.correlators,
            "translator": self.translators,
        }[kind]
        service = Service(
            kind,
            name=f"{kind}-{len(services) + 1}",
            folder=self._folder,
            port=self._choose_port(),
            settings={"NATS_URL": self._bus.url, **self._login(kind), **settings},
            environment=self._environment,
        )
        services.append(service)
        return service

    def _login(self, user: str) -> Mapping[str, str]:
        return login_settings(self._folder / "nats", user) if self._has_users else {}

    def _choose_port(self) -> int:
        # Those chosen a moment ago are free, too, until their services listen.
        while (port := choose_port(HOST, 0)) in self._ports:
            pass
        self._ports.add(port)
        return port
