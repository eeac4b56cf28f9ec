"""Kotoba's addresses: who gets a client secret, and who a stream."""

import base64
import binascii
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.faults import find_fault
from speechbus_simulator.http_head import Asked, RefusedError, respond
from speechbus_simulator.kotoba import KotobaStream
from speechbus_simulator.kotoba_secrets import GA_PATH, MINT_PATH, ClientSecrets
from speechbus_simulator.provider import Admission, is_same
from speechbus_simulator.script import Fault, Script
from speechbus_wire import kotoba as wire

__all__ = ["KotobaProvider"]

SUBPROTOCOL: Final = "realtime"
SECRET_PREFIXES: Final = ("kotoba-insecure-api-key.", "openai-insecure-api-key.")
"""A browser cannot set headers: its secret is the name of a subprotocol."""
_CODES = {
    400: "invalid_parameters",
    401: "invalid_api_key",
    404: "invalid_url",
    411: "invalid_parameters",
    413: "invalid_parameters",
    429: "rate_limit_error",
}


class KotobaProvider:
    """What of a simulator is Kotoba's; implements `SimulatedProvider`.

    Args:
        script: whom it accepts, and what is said.
        now_s: seconds since 1970.
    """

    stream_path = wire.REALTIME_PATH
    busy_status = HTTPStatus.TOO_MANY_REQUESTS
    sessions_per_identity_max = 0

    def __init__(self, script: Script, *, now_s: Callable[[], float]) -> None:
        self._script = script
        self._secrets = ClientSecrets(
            ttl_s=script.secret_ttl_s, now_s=now_s, token=lambda: secrets.token_urlsafe(24)
        )
        self._n_asked = 0

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Answer a request for a client secret.

        Raises:
            RefusedError: with the status.
        """
        if asked.method != "POST" or asked.path not in {MINT_PATH, GA_PATH}:
            raise RefusedError(404, "There is no such thing here.")
        self._n_asked += 1
        fault = find_fault(self._script.faults, "refuse_minting", self._n_asked)
        if fault is not None:
            raise RefusedError(
                fault.status, "The script says so.", retry_after_s=fault.retry_after_s
            )
        self._check_key(_read_key(asked))
        try:
            return respond(200, self._secrets.mint(asked.path, body))
        except wire.RequestError as error:
            raise RefusedError(400, str(error), code=error.code) from None

    def admit(self, asked: Asked, *, session: int, now_s: float) -> Admission:
        """Check who asks: by a key as Bearer, as `Key` or as user name of Basic, or by a secret.

        A secret is taken once, from a browser's subprotocols or in a key's place.

        Raises:
            RefusedError: not this one.
        """
        offered = [
            name.strip() for name in asked.headers.get("sec-websocket-protocol", "").split(",")
        ]
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        for name in offered:
            for prefix in SECRET_PREFIXES:
                if name.startswith(prefix):
                    secret = name.removeprefix(prefix)
                    if not self._use(secret):
                        raise RefusedError(401, "The secret is not one of this server.")
                    return Admission(
                        identity=secret,
                        subprotocol=subprotocol,
                        open_refusal=lambda: self._open_refusal(session, now_s),
                    )
        key = _read_key(asked)
        if not self._use(key):
            self._check_key(key)
        return Admission(identity=key, subprotocol=subprotocol)

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream."""
        del asked
        return KotobaStream(self._script, session=session, now_s=now_s)

    def note_live(self, identity: str, change: int) -> None:
        """Nothing depends on it."""

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        del path
        code = error.code or _CODES.get(error.status, "internal_error")
        return wire.encode_error_body(code, error.detail)

    def _open_refusal(self, session: int, now_s: float) -> SimulatedStream:
        script = msgspec.structs.replace(self._script, faults=(Fault(kind="rate_limit_error"),))
        return KotobaStream(script, session=session, now_s=now_s)

    def _use(self, secret: str) -> bool:
        is_good = self._secrets.use(secret)
        if is_good is False:
            raise RefusedError(401, "The secret has expired, or was used.", code="session_expired")
        return is_good is True

    def _check_key(self, key: str) -> None:
        keys = self._script.keys
        if not (any(is_same(key, known) for known in keys) or (key and not keys)):
            raise RefusedError(401, "The key is not accepted.")


def _read_key(asked: Asked) -> str:
    scheme, _, text = asked.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer" | "key":
            return text.strip()
        case "basic":
            try:
                return base64.b64decode(text, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return ""
        case _:
            return ""
