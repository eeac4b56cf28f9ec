"""The containers of the Helm chart as processes: commands, variables, probes and signals."""

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from speechbus_cli.die_with_parent import build_command
from speechbus_cli.embedded_nats import choose_port
from tests.support.chart import (
    Manifests,
    Object,
    pod_of,
    read_values,
    render_chart,
    variables_of,
)
from tests.support.command_line import build_environment
from tests.support.frame_client import Received, stream_frames
from tests.support.frame_numbers import Tiling
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 60.0
KEY: Final = "key-of-acme"
USERS: Final = ("ingest", "transcriber", "correlator", "translator", "bootstrap", "operator", "sys")
EXACT: Final = Tiling(missing=0, doubled=0, time_error_ms_max=0, is_ordered=True)
VALUES: Final = {
    "transcriber": {"settings": {"PROVIDERS": ["echo"], "DRAIN_S": 5}},
    "ingest": {"settings": {"DECODERS_MAX": 0, "DRAIN_S": 5}},
    "translator": {
        "enabled": True,
        "settings": {"LIBRETRANSLATE_URL": "http://127.0.0.1:9"},
    },
}
SECRETS: Final[Mapping[tuple[str, str], str]] = {
    **{("speechbus-nats", f"nats_{user}_password"): f"pw-of-{user}" for user in USERS},
    ("speechbus-ingest", "api-keys"): f"acme:{KEY}",
    ("speechbus-ingest", "token-secret"): "t" * 32,
}
"""What `kubectl create secret` would have made."""


class Container:
    """The one container of a pod, as a process: with its variables, files, ports and signals."""

    def __init__(self, workload: Object, manifests: Manifests, folder: Path, nats_url: str) -> None:
        """Put its secrets into `folder`; nothing runs before `start`."""
        pod = pod_of(workload)
        (self.spec,) = pod["containers"]
        self.grace_s: float = pod.get("terminationGracePeriodSeconds", 30)
        self.grace_s -= (
            self.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        self.ports = {
            each["name"]: (each["containerPort"], choose_port(HOST, 0))
            for each in self.spec.get("ports", ())
        }
        self._log = folder / f"{self.spec['name']}-{len(list(folder.iterdir()))}"
        self._log.mkdir()
        self._environment = build_environment(
            **{
                name: self._place(name, value, nats_url)
                for name, value in variables_of(workload, manifests).items()
            },
            TMPDIR=str(self._log),
        )
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                secret = source["secret"]
                for item in secret["items"]:
                    text = SECRETS[secret["name"], item["key"]]
                    (self._log / item["path"]).write_text(text, encoding="utf-8")

    def _place(self, name: str, value: str, nats_url: str) -> str:
        """Return the value of a variable here, where pods have no addresses of their own."""
        if name.endswith("_NATS_URL"):
            assert value == "nats://speech-nats:4222"
            return nats_url
        if name.endswith("_HOST"):
            return HOST
        if name.endswith("_PORT"):
            return str(next(own for asked, own in self.ports.values() if str(asked) == value))
        return value.replace("/run/secrets/speechbus", str(self._log))

    def start(self) -> None:
        """Start the command of the container."""
        program, *arguments = self.spec["command"]
        assert program == "speechbus"
        with (self._log / "log").open("ab") as log:
            self.process = subprocess.Popen(
                build_command([str(Path(sys.executable).parent / program), *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def get(self, path: str, port: str = "health") -> tuple[int, str]:
        """Ask as the kubelet or Prometheus does; 0: no answer."""
        connection = http.client.HTTPConnection(HOST, self.ports[port][1], timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def probe(self, name: str) -> int:
        """Return the status that a probe of the container gets."""
        asked = self.spec[name]["httpGet"]
        return self.get(asked["path"], asked["port"])[0]

    def list_failures(self, name: str) -> list[str]:
        """Return what a probe of the container names as failing."""
        asked = self.spec[name]["httpGet"]
        status, body = self.get(asked["path"], asked["port"])
        return [each["name"] for each in json.loads(body)["failing"]] if status else []

    def wait_until_ready(self) -> None:
        """Return when the readiness probe succeeds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.probe("readinessProbe") != 200:
            assert self.process.poll() is None, self.read_log()
            assert time.monotonic() < deadline_s, self.read_log()
            time.sleep(0.05)

    def end(self) -> int:
        """End it as the kubelet does; return the exit code.

        Raises:
            subprocess.TimeoutExpired: the kubelet would have killed it.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.grace_s)

    def count_streams(self) -> float:
        """Read the metric that scaling goes by."""
        found = re.search(
            r"^speechbus_\w+_streams(?:\{.*\})? (\S+)$", self.get("/metrics")[1], re.M
        )
        assert found is not None
        return float(found[1])

    def read_log(self) -> str:
        """Return the end of what it has written."""
        return (self._log / "log").read_text(encoding="utf-8")[-3000:]


def write_nats_config(manifests: Manifests, folder: Path) -> Path:
    """Write what NATS' own chart would mount: its configuration, and the users beside it."""
    config, users = folder / "nats-config", folder / "nats-speechbus"
    config.mkdir()
    users.mkdir()
    for name, text in manifests.get("ConfigMap", "-bus-users")["data"].items():
        (users / name).write_text(text, encoding="utf-8")
    passwords = (
        f'{u.upper()}_PASSWORD: "{SECRETS["speechbus-nats", f"nats_{u}_password"]}"' for u in USERS
    )
    (users / "passwords.conf").write_text("\n".join(passwords), encoding="utf-8")
    (users / "tenants.conf").write_text("", encoding="utf-8")
    lines = ["jetstream: {max_memory_store: 4GB, max_file_store: 2GB}"]
    for key, value in read_values()["nats"]["config"]["merge"].items():
        is_include = key.endswith("$include")
        text = value if isinstance(value, str) else json.dumps(value)
        unquoted = re.fullmatch(r"<< (.*) >>", text)
        lines.append(
            f"include {value}" if is_include else f"{key}: {unquoted[1] if unquoted else text}"
        )
    path = config / "nats.conf"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextmanager
def run_pods(
    manifests: Manifests, folder: Path, nats_url: str, replicas: Mapping[str, int]
) -> Generator[dict[str, list[Container]]]:
    """Start the containers of all Deployments, and kill what is left of them in the end."""
    pods: dict[str, list[Container]] = {}
    try:
        for deployment in manifests.of("Deployment"):
            name = deployment["metadata"]["labels"]["app.kubernetes.io/component"]
            pods[name] = [
                Container(deployment, manifests, folder, nats_url)
                for _ in range(replicas.get(name, 1))
            ]
            for container in pods[name]:
                container.start()
        yield pods
    finally:
        for container in (each for group in pods.values() for each in group):
            if hasattr(container, "process") and container.process.poll() is None:
                container.process.kill()
                container.process.wait()


def test_the_chart_runs_and_scaling_down_cuts_no_stream(tmp_path: Path) -> None:
    """Commands, variables, secrets, probes and rights fit together."""
    manifests = render_chart(VALUES)
    logs = tmp_path / "pods"
    logs.mkdir()
    with NatsServer(tmp_path / "nats", config=write_nats_config(manifests, tmp_path)) as nats:
        job = Container(manifests.of("Job")[0], manifests, logs, nats.url)
        job.start()
        assert job.process.wait(PATIENCE_S) == 0, job.read_log()

        with run_pods(manifests, logs, nats.url, {"transcriber": 2}) as pods:
            everything = [each for group in pods.values() for each in group]
            for container in everything:
                container.wait_until_ready()
            assert {
                (
                    container.spec["name"],
                    container.probe("livenessProbe"),
                    container.get("/metrics")[0],
                )
                for container in everything
            } == {(name, 200, 200) for name in pods}

            received = asyncio.run(_stream_through_a_drain(pods))

            # The clean end of the rest; the drained one was ended before.
            codes = {c.spec["name"]: c.end() for c in everything if c.process.poll() is None}
    assert received.check_tiling(250) == EXACT
    assert received.gaps == []
    assert [claim.reason for _, claim in received.claims] == ["opened", "drain"]
    assert codes == dict.fromkeys(pods, 0)


async def _stream_through_a_drain(pods: dict[str, list[Container]]) -> Received:
    """Stream 5 s, and end the pod that carries it in the middle."""
    (ingest,), transcribers = pods["ingest"], pods["transcriber"]
    url = f"http://{HOST}:{ingest.ports['doors'][1]}"

    def end_the_carrier() -> tuple[float, int]:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (carriers := [c for c in transcribers if c.count_streams() == 1]):
            assert time.monotonic() < deadline_s
        return ingest.count_streams(), carriers[0].end()

    async with asyncio.TaskGroup() as tasks:
        streaming = tasks.create_task(stream_frames(url, KEY, n_frames=250))
        ending = tasks.create_task(asyncio.to_thread(end_the_carrier))
    assert ending.result() == (1.0, 0)
    return streaming.result()


def test_pods_that_wait_for_nats_are_alive_and_not_ready(tmp_path: Path) -> None:
    """In a new release NATS comes up last; a pod that is killed for it only comes up later."""
    manifests = render_chart(VALUES)
    nobody = f"nats://{HOST}:{choose_port(HOST, 0)}"
    with run_pods(manifests, tmp_path, nobody, {}) as pods:
        containers = {name: container for name, (container,) in pods.items()}
        deadline_s = time.monotonic() + PATIENCE_S
        while any(each.probe("startupProbe") != 200 for each in containers.values()):
            assert time.monotonic() < deadline_s
        # Longer than any loop may be silent (5 s): that of a service which has none yet.
        failing: set[tuple[str, str]] = set()
        ready: set[tuple[str, int]] = set()
        alive_until_s = time.monotonic() + 5.5
        while time.monotonic() < alive_until_s:
            for name, container in containers.items():
                failing |= {(name, each) for each in container.list_failures("livenessProbe")}
                ready.add((name, container.probe("readinessProbe")))
            time.sleep(0.25)
        codes = {name: container.end() for name, container in containers.items()}

    # A machine that is busy elsewhere blocks event loops, too.
    assert {each for each in failing if each[1] != "event_loop"} == set()
    assert ready == {(name, 503) for name in containers}
    assert codes == dict.fromkeys(containers, 0)
