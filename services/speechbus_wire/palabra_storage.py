"""Palabra's session storage: sessions that exist are listed, told and prolonged. Pure.

How they are made is in `palabra_sessions`.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from speechbus_wire.palabra import ParameterError

__all__ = [
    "PAGE_SESSIONS",
    "PAGE_SESSIONS_MAX",
    "SESSIONS_PATH",
    "TTL_S_MAX",
    "Page",
    "SessionInfo",
    "encode_session_info",
    "encode_session_list",
    "parse_page",
    "parse_ttl",
]

SESSIONS_PATH: Final = "/session-storage/sessions"
"""Of the list; a session is one step below. (A new one is asked for at `SESSION_PATH`.)"""
PAGE_SESSIONS: Final = 50
PAGE_SESSIONS_MAX: Final = 1_000
TTL_S_MAX: Final = 30 * 86_400
"""What Palabra's documentation shows as the life of a session."""

_NUMBER: Final = re.compile(r"[0-9]{1,9}\Z")


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
    token = ""
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
