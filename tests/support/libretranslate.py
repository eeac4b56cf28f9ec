"""A server that speaks LibreTranslate's API, with faults."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec

__all__ = ["LibreTranslateServer", "translate"]

PAIRS = {"en": ("en", "es", "pt"), "es": ("en", "es")}


def translate(text: str, target: str) -> str:
    """What the server makes of a text."""
    return f"[{target}] {text}"


class LibreTranslateServer:
    """Translates by naming the target; a context manager.

    Args:
        fault: called with each request's number, from 1, before it is answered; returns a status
            to answer with instead, or None. It may wait.
        api_key: wanted; empty: none.
    """

    def __init__(
        self, *, fault: Callable[[int], int | None] = lambda _number: None, api_key: str = ""
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self._fault = fault
        self._api_key = api_key
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                languages = [{"code": code, "targets": PAIRS[code]} for code in PAIRS]
                self._answer(200, languages)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self._answer(*outer.take(msgspec.json.decode(body)))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nowhere."""

            def _answer(self, status: int, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, request: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Answer one request; returns status and body."""
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        status = self._fault(number)
        if status is not None:
            return status, {"error": f"scripted {request['q']}"}
        if request.get("api_key", "") != self._api_key:
            return 403, {"error": "Invalid API key"}
        source, target = request["source"], request["target"]
        if source != "auto" and target not in PAIRS.get(source, ()):
            return 400, {"error": "not supported"}
        return 200, {"translatedText": translate(request["q"], target)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
