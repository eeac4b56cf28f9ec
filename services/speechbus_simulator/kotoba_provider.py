"""Kotoba's addresses: who may open a stream."""

import base64
import binascii
from http import HTTPStatus
from typing import Any

from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.http_head import Asked, RefusedError
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.script import Script
from speechbus_simulator.server import is_same
from speechbus_wire import kotoba as wire

__all__ = ["KotobaProvider"]

_CODES = {
    401: "invalid_api_key",
    404: "invalid_url",
    413: "invalid_parameters",
    429: "rate_limit_error",
}


class KotobaProvider:
    """What of a simulator is Kotoba's; implements `SimulatedProvider`.

    Args:
        script: whom it accepts, and what is said.
    """

    stream_path = wire.REALTIME_PATH
    busy_status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, script: Script) -> None:
        self._script = script

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Nothing is served over HTTP.

        Raises:
            RefusedError: always.
        """
        del asked, body
        raise RefusedError(404, "There is no such thing here.")

    def admit(self, asked: Asked) -> None:
        """Check the key: as Bearer, as `Key`, or as user name of Basic.

        Raises:
            RefusedError: it is not accepted.
        """
        key, keys = _read_key(asked.headers.get("authorization", "")), self._script.keys
        if not (any(is_same(key, known) for known in keys) or (key and not keys)):
            raise RefusedError(401, "The key is not accepted.")

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream."""
        del asked
        return KotobaStream(self._script, session=session, now_s=now_s)

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        del path
        code = error.code or _CODES.get(error.status, "internal_error")
        return wire.encode_error_body(code, error.detail)


def _read_key(header: str) -> str:
    scheme, _, text = header.partition(" ")
    match scheme.lower():
        case "bearer" | "key":
            return text
        case "basic":
            try:
                return base64.b64decode(text, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return ""
        case _:
            return ""
