"""Palabra's session storage over HTTP: its requests and answers. Pure, and for both sides."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from speechbus_wire.palabra import PalabraError, ParameterError

__all__ = [
    "PAGE_SESSIONS",
    "PAGE_SESSIONS_MAX",
    "SESSIONS_PATH",
    "TTL_S_MAX",
    "Page",
    "Problem",
    "SessionInfo",
    "SessionRequest",
    "SessionToken",
    "decode_session",
    "decode_session_request",
    "encode_problem",
    "encode_session",
    "encode_session_info",
    "encode_session_list",
    "encode_session_request",
    "parse_page",
    "parse_ttl",
]

SESSIONS_PATH: Final = "/session-storage/sessions"
"""Of the list; a session is one step below. (A new one is asked for at `SESSION_PATH`.)"""

SUBSCRIBERS_MAX: Final = 10
"""Palabra's limit (providers.md 3.2)."""
PAGE_SESSIONS: Final = 50
PAGE_SESSIONS_MAX: Final = 1_000
TTL_S_MAX: Final = 30 * 86_400
"""What Palabra's documentation shows as the life of a session."""

_NUMBER: Final = re.compile(r"[0-9]{1,9}\Z")


class SessionRequest(msgspec.Struct, frozen=True):
    """What a session is asked to have; Palabra's fields that mean nothing here are ignored."""

    subscriber_count: Annotated[int, msgspec.Meta(ge=0, le=SUBSCRIBERS_MAX)] = 0


class _SessionBody(msgspec.Struct, frozen=True):
    data: SessionRequest


class SessionToken(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its owner gets it."""

    session_id: str
    publisher: str
    subscribers: tuple[str, ...] = ()


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is listed. Times are ms since 1970; the wire has whole seconds."""

    session_id: str
    created_at: int
    updated_at: int
    expires_at: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What part of a list is asked for."""

    size: int = PAGE_SESSIONS
    after: str = ""
    """Id of the last session before it; empty: from the beginning."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error of the HTTP side."""

    status: int
    title: str
    detail: str
    """What to do."""
    error_code: str
    instance: str
    """Path of the request, without its query."""


class _SessionData(msgspec.Struct, frozen=True):
    publisher: str
    # The seed's program reads nothing but the token; a server may send no more.
    id: str = ""
    subscriber: tuple[str, ...] | None = None


class _SessionAnswer(msgspec.Struct, frozen=True):
    data: _SessionData


_answer_decoder: Final = msgspec.json.Decoder(_SessionAnswer)
_body_decoder: Final = msgspec.json.Decoder(_SessionBody)


def decode_session_request(body: bytes) -> SessionRequest:
    """Read the body of `POST /session-storage/session`.

    Raises:
        PalabraError: no JSON, or not the right fields; the text says what is wrong and repeats
            nothing of the body.
    """
    try:
        return _body_decoder.decode(body).data
    except msgspec.ValidationError as error:
        # msgspec names types and fields here, never values.
        raise PalabraError(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise PalabraError("The body is no valid JSON.") from None


def encode_session(session: SessionToken) -> bytes:
    """Return the body of the 201 that answers it.

    The addresses of Palabra's speech-to-speech rooms are there, empty, for clients that insist on
    the fields.
    """
    data: dict[str, Any] = {
        "id": session.session_id,
        "publisher": session.publisher,
        "subscriber": session.subscribers,
        "webrtc_room_name": "",
        "webrtc_url": "",
        "ws_url": "",
        "ws_tts_url": "",
        "intent": "api",
    }
    return msgspec.json.encode({"ok": True, "data": data})


def encode_session_request(*, subscriber_count: int = 0) -> bytes:
    """Return the body of `POST /session-storage/session`, as the seed's program sends it."""
    data: dict[str, Any] = {
        "subscriber_count": subscriber_count,
        "publisher_count": 1,
        "publisher_can_subscribe": True,
    }
    return msgspec.json.encode({"data": data})


def decode_session(body: bytes) -> SessionToken:
    """Read the answer to a request for a session; its id is empty where the server gave none.

    Raises:
        PalabraError: no such answer; the text repeats nothing of it.
    """
    try:
        data = _answer_decoder.decode(body).data
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise PalabraError("not a valid session") from None
    return SessionToken(
        session_id=data.id, publisher=data.publisher, subscribers=data.subscriber or ()
    )


def encode_session_info(session: SessionInfo) -> bytes:
    """Return the answer to a request for one session."""
    return msgspec.json.encode({"ok": True, "data": _spell_info(session)})


def encode_session_list(sessions: Sequence[SessionInfo], page: Page) -> bytes:
    """Return the answer to a request for a list.

    Args:
        sessions: all of them, in the order of their ids; the page is cut here.
        page: what was asked for.
    """
    left = [session for session in sessions if session.session_id > page.after]
    shown = left[: page.size]
    token = None
    if len(left) > len(shown):
        token = base64.urlsafe_b64encode(shown[-1].session_id.encode()).decode()
    answer = {"ok": True, "data": [*map(_spell_info, shown)], "next_page_token": token}
    return msgspec.json.encode(answer)


def _spell_info(session: SessionInfo) -> dict[str, str]:
    return {
        "id": session.session_id,
        "created_at": _spell_time(session.created_at),
        "updated_at": _spell_time(session.updated_at),
        "expires_at": _spell_time(session.expires_at),
    }


def _spell_time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_page(query: Mapping[str, str]) -> Page:
    """Read the query of a request for a list.

    Raises:
        ParameterError: `page_size` or `page_token` is none.
    """
    size = _parse_number(query, "page_size", PAGE_SESSIONS_MAX) if "page_size" in query else None
    try:
        after = base64.b64decode(query.get("page_token", ""), altchars=b"-_", validate=True)
        return Page(size=size or PAGE_SESSIONS, after=after.decode())
    except (binascii.Error, ValueError):
        raise ParameterError(
            'invalid parameter "page_token": take next_page_token of the page before'
        ) from None


def parse_ttl(query: Mapping[str, str]) -> int:
    """Read after how many seconds from now a session shall expire.

    Raises:
        ParameterError: `ttl_seconds` is missing or wrong.
    """
    return _parse_number(query, "ttl_seconds", TTL_S_MAX)


def _parse_number(query: Mapping[str, str], name: str, number_max: int) -> int:
    text = query.get(name, "")
    number = int(text) if _NUMBER.match(text) else 0
    if not 1 <= number <= number_max:
        raise ParameterError(f'invalid parameter "{name}": a whole number from 1 to {number_max}')
    return number


def encode_problem(problem: Problem) -> bytes:
    """Return the body of an HTTP error."""
    error: dict[str, Any] = {
        "type": "about:blank",
        "status": problem.status,
        "title": problem.title,
        "detail": problem.detail,
        "instance": problem.instance,
        "error_code": problem.error_code,
    }
    return msgspec.json.encode({"ok": False, "errors": [error]})
