"""Palabra's addresses: who gets a session, and who a stream."""

import secrets
from http import HTTPStatus
from typing import Any, Final

import msgspec

from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.http_head import Asked, RefusedError, respond
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.script import Script
from speechbus_simulator.server import is_same
from speechbus_wire import palabra as wire
from speechbus_wire.palabra_sessions import (
    Problem,
    SessionToken,
    decode_session_request,
    encode_problem,
    encode_session,
)

__all__ = ["PalabraProvider"]

SESSIONS_KEPT_MAX: Final = 1_000
"""Sessions minted and not deleted; the oldest goes when one more is asked for."""
SESSIONS_PATH: Final = "/session-storage/sessions/"


class PalabraProvider:
    """What of a simulator is Palabra's; implements `SimulatedProvider`.

    Args:
        script: whom it accepts, and what is said.
    """

    stream_path = wire.STREAM_PATH
    busy_status = HTTPStatus.CONFLICT

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tokens: dict[str, str] = {}

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Answer a request of the session storage.

        Raises:
            RefusedError: with the status.
        """
        script = self._script
        for name, wanted in (
            ("clientid", script.client_id),
            ("clientsecret", script.client_secret),
        ):
            if wanted and not is_same(asked.headers.get(name, ""), wanted):
                raise RefusedError(401, "ClientId or ClientSecret is not accepted.")
        if asked.method == "POST" and asked.path == wire.SESSION_PATH:
            return self._mint(body)
        session_id = asked.path.removeprefix(SESSIONS_PATH)
        if asked.method == "DELETE" and session_id in self._tokens:
            del self._tokens[session_id]
            return respond(204)
        raise RefusedError(404, "There is no such thing here.")

    def _mint(self, body: bytes) -> bytes:
        try:
            wanted = decode_session_request(body)
        except wire.PalabraError as error:
            raise RefusedError(400, str(error)) from None
        session_id, token = secrets.token_hex(16), secrets.token_urlsafe(32)
        self._tokens[session_id] = token
        if len(self._tokens) > SESSIONS_KEPT_MAX:
            del self._tokens[next(iter(self._tokens))]
        session = SessionToken(
            session_id=session_id, publisher=token, subscribers=(token,) * wanted.subscriber_count
        )
        return respond(201, msgspec.Raw(encode_session(session)))

    def admit(self, asked: Asked) -> None:
        """Check who asks for a stream.

        Raises:
            RefusedError: not this one.
        """
        keys = self._script.keys
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        token = asked.query.get("token") or bearer
        is_minted = any(is_same(token, known) for known in self._tokens.values())
        is_key = any(is_same(token, key) for key in keys) or bool(token and not keys)
        if not is_minted and not is_key:
            raise RefusedError(401, "The token is not accepted.")

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream.

        Raises:
            RefusedError: its parameters are wrong.
        """
        try:
            parameters = wire.parse_stream_parameters(asked.query)
        except wire.ParameterError as error:
            raise RefusedError(400, str(error)) from None
        if parameters.format != wire.PCM_S16LE:
            raise RefusedError(400, f"The simulator hears {wire.PCM_S16LE} only.")
        return PalabraStream(self._script, session=session, parameters=parameters, now_s=now_s)

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        problem = Problem(
            status=error.status,
            title=HTTPStatus(error.status).phrase,
            detail=error.detail,
            error_code="simulated",
            instance=path,
        )
        return msgspec.Raw(encode_problem(problem))
