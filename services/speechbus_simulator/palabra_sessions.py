"""Palabra's session storage: sessions that were minted, and how long they are good. Pure."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from speechbus_wire.palabra_sessions import (
    SessionClaims,
    SessionToken,
    sign_token,
    verify_token,
)

__all__ = ["SessionStorage"]

SESSIONS_KEPT_MAX: Final = 1_000
"""Sessions that are not deleted; the oldest goes when one more is asked for."""
TOKEN_TTL_S: Final = 7 * 86_400
"""A signature's, which cannot change; the session's own time is what counts."""
PUSHED_S: Final = 60.0
"""While a client is connected, the end is at least this far away (providers.md 3.2)."""
PAGE_MAX: Final = 100


class _Session(msgspec.Struct, kw_only=True):
    session_id: str
    owner: str
    created_at_s: float
    updated_at_s: float
    expires_at_s: float
    n_live: int = 0

    def describe(self, now_s: float) -> dict[str, str]:
        """The session as it is listed."""
        expires_at_s = max(self.expires_at_s, now_s + PUSHED_S if self.n_live else 0.0)
        return {
            "id": self.session_id,
            "created_at": _spell_time(self.created_at_s),
            "updated_at": _spell_time(self.updated_at_s),
            "expires_at": _spell_time(expires_at_s),
        }


class SessionStorage:
    """The sessions of all clients; each sees its own.

    Args:
        ttl_s: how long a session is good that nobody connects to.
        secret: signs tokens.
        now_s: seconds since 1970.
        new_id: returns an id that never was.
    """

    def __init__(
        self, *, ttl_s: int, secret: bytes, now_s: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self._ttl_s = ttl_s
        self._secret = secret
        self._now_s = now_s
        self._new_id = new_id
        self._sessions: dict[str, _Session] = {}

    def mint(self, owner: str, *, subscriber_count: int) -> SessionToken:
        """Make a session of this client."""
        now_s = self._now_s()
        self._forget()
        if len(self._sessions) >= SESSIONS_KEPT_MAX:
            del self._sessions[next(iter(self._sessions))]
        session_id = self._new_id()
        self._sessions[session_id] = _Session(
            session_id=session_id,
            owner=owner,
            created_at_s=now_s,
            updated_at_s=now_s,
            expires_at_s=now_s + self._ttl_s,
        )
        claims = SessionClaims(
            tenant=owner, session_id=session_id, expires_at_s=int(now_s) + TOKEN_TTL_S
        )
        subscriber = msgspec.structs.replace(claims, role="subscriber")
        return SessionToken(
            session_id=session_id,
            publisher=sign_token(claims, self._secret),
            subscribers=(sign_token(subscriber, self._secret),) * subscriber_count,
        )

    def find(self, token: str) -> tuple[bool, str | None]:
        """Return whether a token is one of ours, and the session that it opens; None: none.

        A subscriber's opens none, nor does that of a session that has expired or is deleted.
        """
        claims = verify_token(token, self._secret, now_s=self._now_s())
        if claims is None:
            return False, None
        self._forget()
        is_good = claims.role == "publisher" and claims.session_id in self._sessions
        return True, claims.session_id if is_good else None

    def note_live(self, session_id: str, change: int) -> None:
        """Take note that a connection of a session began (1) or ended (-1)."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.n_live += change
            session.updated_at_s = self._now_s()
            session.expires_at_s = max(session.expires_at_s, session.updated_at_s + PUSHED_S)

    def list_page(self, owner: str, *, size: int, after: str) -> dict[str, Any]:
        """Return the body that lists a client's sessions.

        Args:
            owner: whose.
            size: sessions at most.
            after: the last id of the page before; empty: the first page.
        """
        self._forget()
        own = [session for session in self._sessions.values() if session.owner == owner]
        ids = [session.session_id for session in own]
        start = ids.index(after) + 1 if after in ids else 0
        page = own[start : start + min(max(1, size), PAGE_MAX)]
        has_more = start + len(page) < len(own)
        return {
            "ok": True,
            "data": [session.describe(self._now_s()) for session in page],
            "next_page_token": page[-1].session_id if has_more else "",
        }

    def describe(self, owner: str, session_id: str) -> dict[str, Any] | None:
        """Return the body that tells one session; None: this client has none of this id."""
        session = self._find_own(owner, session_id)
        return None if session is None else {"ok": True, "data": session.describe(self._now_s())}

    def set_ttl(self, owner: str, session_id: str, ttl_s: int) -> bool:
        """Let a session end so many seconds from now; False: there is none of this id."""
        session = self._find_own(owner, session_id)
        if session is None:
            return False
        session.updated_at_s = self._now_s()
        session.expires_at_s = session.updated_at_s + ttl_s
        return True

    def delete(self, owner: str, session_id: str) -> bool:
        """Delete a session; False: there is none of this id."""
        if self._find_own(owner, session_id) is None:
            return False
        del self._sessions[session_id]
        return True

    def _find_own(self, owner: str, session_id: str) -> _Session | None:
        self._forget()
        session = self._sessions.get(session_id)
        return session if session is not None and session.owner == owner else None

    def _forget(self) -> None:
        now_s = self._now_s()
        self._sessions = {
            session_id: session
            for session_id, session in self._sessions.items()
            if session.n_live or session.expires_at_s > now_s
        }


def _spell_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
