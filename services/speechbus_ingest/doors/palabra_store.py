"""Sessions of Palabra's clients, in a store that all ingest processes share.

One message per session is all that is known of it, written by compare-and-set. It holds no token.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final

import msgspec

from speechbus_contracts import (
    ROOT,
    SESSION_STORE,
    ContractError,
    Integer,
    SessionSubject,
    build_session_headers,
    build_stream_id,
)
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import (
    JetStreamError,
    JetStreamUnavailableError,
    StoredMessage,
    fetch_stored,
    read_last,
    request_api,
)
from speechbus_runtime.publisher import AckedPublisher, PublishRefusedError, StaleGuardError
from speechbus_wire.palabra_storage import TTL_S_MAX

__all__ = ["Session", "SessionStore", "StoredSession", "TooManySessionsError"]

SESSION_TTL_S: Final = 3_600
"""A session lives this long from when it was made or a client of it was last connected: time for a
client to come back with the token that it has."""
SESSIONS_PER_TENANT_MAX: Final = 1_000
"""Sessions of one tenant that have not expired: more than its streams."""
WRITE_TIMEOUT_S: Final = 3.0
"""A write takes milliseconds; a store that is full, or without a leader, does not answer."""
EXPIRED_TTL_S: Final = 60
"""The store forgets a session this long after it has expired. Whether it has is told by its time,
on clocks that differ a little; a message that is missing means something else."""
DELETED_TTL_S: Final = 120
"""The word that a session is deleted stays this long. The processes hear it at once; one whose
connection to NATS was away has it read when it is back."""


class TooManySessionsError(Exception):
    """This tenant has as many sessions as it may have."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a session; times are ms since 1970."""

    tenant: str
    session_id: str
    """A UUIDv7: ids sort by the time they were made."""
    created_at: Integer
    updated_at: Integer
    expires_at: Integer
    holder: str | None = None
    """Ingest that had its client last, and may have it still."""
    is_deleted: bool = False

    def lives(self, *, now_ms: int) -> bool:
        """Whether its tokens are worth something."""
        return not self.is_deleted and now_ms < self.expires_at


class StoredSession(msgspec.Struct, frozen=True):
    """A session, and the sequence that its next word has to name."""

    session: Session
    sequence: int


_UNREADABLE: Final = Session(
    tenant="", session_id="", created_at=0, updated_at=0, expires_at=0, is_deleted=True
)
"""Of a version that this one does not understand: it lets nobody in."""
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Session)


class SessionStore:
    """Reads and writes sessions.

    Every method raises `JetStreamUnavailableError` when the store does not answer.

    Args:
        bus: for reads.
        publisher: for writes.
        now_ms: ms since 1970.
    """

    def __init__(
        self, bus: BusConnection, publisher: AckedPublisher, *, now_ms: Callable[[], int]
    ) -> None:
        self._bus = bus
        self._publisher = publisher
        self._now_ms = now_ms

    async def create(self, tenant: str) -> Session:
        """Make a session.

        Raises:
            TooManySessionsError: the tenant has too many.
        """
        if await self._count(tenant) >= SESSIONS_PER_TENANT_MAX:
            raise TooManySessionsError
        now_ms = self._now_ms()
        session = Session(
            tenant=tenant,
            session_id=build_stream_id(unix_ms=now_ms, entropy=os.urandom(10)),
            created_at=now_ms,
            updated_at=now_ms,
            expires_at=now_ms + SESSION_TTL_S * 1000,
        )
        await self._write(session, last_sequence=0)
        return session

    async def read(self, tenant: str, session_id: str) -> StoredSession | None:
        """Return the last word about a session; None: there is none. The leader is asked."""
        try:
            subject = str(SessionSubject(tenant, session_id))
        except ContractError:
            return None  # no id of ours
        message = await read_last(self._bus, SESSION_STORE, subject)
        return None if message is None else self._decode(message)

    async def read_all(self, tenant: str) -> list[Session]:
        """Return a tenant's living sessions, the oldest first."""
        sessions: dict[str, Session] = {}
        sequence = 0
        while True:
            messages = await fetch_stored(
                self._bus,
                SESSION_STORE,
                f"{ROOT}.session.{tenant}.*",
                start_sequence=sequence + 1,
            )
            if not messages:
                return [sessions[name] for name in sorted(sessions)]
            sequence = messages[-1].sequence
            for message in messages:
                session = self._decode(message).session
                if session.lives(now_ms=self._now_ms()):
                    sessions[session.session_id] = session

    async def update(
        self, stored: StoredSession, *, expires_at: int, holder: str | None
    ) -> StoredSession:
        """Say how long a session lives from now on, and who has its client.

        Raises:
            StaleGuardError: somebody wrote in between: read it again.
        """
        session = msgspec.structs.replace(
            stored.session,
            updated_at=self._now_ms(),
            # Its tokens do not outlive this.
            expires_at=min(expires_at, stored.session.created_at + TTL_S_MAX * 1000),
            holder=holder,
        )
        return await self._write(session, last_sequence=stored.sequence)

    async def delete(self, stored: StoredSession) -> None:
        """End a session: its tokens are worth nothing from now on.

        Raises:
            StaleGuardError: somebody wrote in between: read it again.
        """
        session = msgspec.structs.replace(
            stored.session, is_deleted=True, updated_at=self._now_ms()
        )
        await self._write(session, last_sequence=stored.sequence)

    async def _count(self, tenant: str) -> int:
        try:
            answer = await request_api(
                self._bus,
                f"STREAM.INFO.{SESSION_STORE}",
                {"subjects_filter": f"{ROOT}.session.{tenant}.*"},
            )
        except JetStreamError as error:
            raise JetStreamUnavailableError(str(error.err_code)) from None
        return len(answer["state"].get("subjects") or ())

    async def _write(self, session: Session, *, last_sequence: int) -> StoredSession:
        left_s = max(0, session.expires_at - self._now_ms()) // 1000
        headers = build_session_headers(
            f"{session.session_id}:{os.urandom(8).hex()}",
            last_sequence=last_sequence,
            ttl_s=DELETED_TTL_S if session.is_deleted else left_s + EXPIRED_TTL_S,
        )
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                ack = await self._publisher.publish(
                    str(SessionSubject(session.tenant, session.session_id)),
                    _encoder.encode(session),
                    headers=encode_headers(headers),
                )
        except TimeoutError:
            raise JetStreamUnavailableError("timeout") from None
        except StaleGuardError:
            raise
        except PublishRefusedError as error:
            raise JetStreamUnavailableError(str(error.err_code)) from None
        return StoredSession(session, ack.seq)

    def _decode(self, message: StoredMessage) -> StoredSession:
        try:
            session = _decoder.decode(message.payload)
        except msgspec.DecodeError:
            session = _UNREADABLE
        return StoredSession(session, message.sequence)
