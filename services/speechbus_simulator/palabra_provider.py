"""Palabra's addresses: who gets a session, and who a stream."""

import re
import secrets
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from speechbus_simulator.actions import SimulatedStream
from speechbus_simulator.faults import find_fault
from speechbus_simulator.http_head import Asked, RefusedError, name_status, respond
from speechbus_simulator.palabra import PalabraStream
from speechbus_simulator.palabra_sessions import SessionStorage
from speechbus_simulator.provider import Admission, is_same
from speechbus_simulator.script import Script
from speechbus_wire import palabra as wire
from speechbus_wire.palabra_sessions import (
    Problem,
    decode_session_request,
    encode_problem,
    encode_session,
)

__all__ = ["PalabraProvider"]

SESSIONS_PATH: Final = "/session-storage/sessions"
TTL_S_MAX: Final = 86_400
_NUMBER: Final = re.compile(r"[0-9]{1,6}\Z")


class PalabraProvider:
    """What of a simulator is Palabra's; implements `SimulatedProvider`.

    Args:
        script: whom it accepts, and what is said.
        now_s: seconds since 1970.
    """

    stream_path = wire.STREAM_PATH
    busy_status = HTTPStatus.CONFLICT
    sessions_per_identity_max = 1

    def __init__(self, script: Script, *, now_s: Callable[[], float]) -> None:
        self._script = script
        self._sessions = SessionStorage(
            ttl_s=script.session_ttl_s,
            secret=secrets.token_bytes(32),
            now_s=now_s,
            new_id=lambda: str(uuid.uuid4()),
        )
        self._n_asked = 0

    def answer(self, asked: Asked, body: bytes) -> bytes:
        """Answer a request of the session storage.

        Raises:
            RefusedError: with the status.
        """
        if asked.method == "POST" and asked.path == wire.SESSION_PATH:
            self._n_asked += 1
            fault = find_fault(self._script.faults, "refuse_minting", self._n_asked)
            if fault is not None:
                raise RefusedError(
                    fault.status, "The script says so.", retry_after_s=fault.retry_after_s
                )
            return self._mint(self._authenticate(asked), body)
        owner = self._authenticate(asked)
        if asked.path == SESSIONS_PATH and asked.method == "GET":
            size = asked.query.get("page_size", "")
            page = self._sessions.list_page(
                owner,
                size=int(size) if _NUMBER.match(size) else 20,
                after=asked.query.get("page_token", ""),
            )
            return respond(200, page)
        folder, _, session_id = asked.path.rpartition("/")
        if folder != SESSIONS_PATH:
            raise RefusedError(404, "There is no such thing here.")
        return self._answer_about(session_id, owner, asked)

    def admit(self, asked: Asked, *, session: int, now_s: float) -> Admission:
        """Check who asks for a stream: by a session's token or an API key, in query or header.

        Raises:
            RefusedError: not this one.
        """
        del session, now_s
        scheme, _, bearer = asked.headers.get("authorization", "").partition(" ")
        token = asked.query.get("token") or (bearer.strip() if scheme.lower() == "bearer" else "")
        is_minted, session_id = self._sessions.find(token)
        if session_id is not None:
            return Admission(identity=session_id)
        keys = self._script.keys
        is_key = any(is_same(token, key) for key in keys) or bool(token and not keys)
        if is_minted or not is_key:
            raise RefusedError(401, "The token is not accepted, or its session is over.")
        return Admission(identity=token)

    def open_stream(self, asked: Asked, *, session: int, now_s: float) -> SimulatedStream:
        """Begin a stream.

        Raises:
            RefusedError: its parameters are wrong.
        """
        try:
            parameters = wire.parse_stream_parameters(asked.query)
        except wire.ParameterError as error:
            raise RefusedError(400, str(error)) from None
        if parameters.format in wire.CONTAINER_FORMATS:
            raise RefusedError(400, f"The simulator hears {', '.join(wire.RAW_FORMATS)}.")
        return PalabraStream(self._script, session=session, parameters=parameters, now_s=now_s)

    def note_live(self, identity: str, change: int) -> None:
        """Keep the session while it is connected."""
        self._sessions.note_live(identity, change)

    def spell_refusal(self, error: RefusedError, path: str) -> Any:  # noqa: ANN401 (any JSON)
        """Return the vendor's error body."""
        problem = Problem(
            status=error.status,
            title=name_status(error.status),
            detail=error.detail,
            error_code="simulated",
            instance=path,
        )
        return msgspec.Raw(encode_problem(problem))

    def _authenticate(self, asked: Asked) -> str:
        """Return the client's id.

        Raises:
            RefusedError: it is not accepted.
        """
        client_id = asked.headers.get("clientid", "")
        client_secret = asked.headers.get("clientsecret", "")
        for given, wanted in (
            (client_id, self._script.client_id),
            (client_secret, self._script.client_secret),
        ):
            if not given or (wanted and not is_same(given, wanted)):
                raise RefusedError(401, "ClientId or ClientSecret is not accepted.")
        return client_id

    def _mint(self, owner: str, body: bytes) -> bytes:
        try:
            wanted = decode_session_request(body)
        except wire.PalabraError as error:
            raise RefusedError(400, str(error)) from None
        session = self._sessions.mint(owner, subscriber_count=wanted.subscriber_count)
        return respond(201, msgspec.Raw(encode_session(session)))

    def _answer_about(self, session_id: str, owner: str, asked: Asked) -> bytes:
        match asked.method:
            case "GET":
                found = self._sessions.describe(owner, session_id)
                if found is not None:
                    return respond(200, found)
            case "POST":
                ttl = asked.query.get("ttl_seconds", "")
                if not _NUMBER.match(ttl) or not 1 <= int(ttl) <= TTL_S_MAX:
                    raise RefusedError(400, f"ttl_seconds is 1 to {TTL_S_MAX}.")
                if self._sessions.set_ttl(owner, session_id, int(ttl)):
                    return respond(204)
            case "DELETE" if self._sessions.delete(owner, session_id):
                return respond(204)
            case _:
                pass
        raise RefusedError(404, "There is no such session.")
