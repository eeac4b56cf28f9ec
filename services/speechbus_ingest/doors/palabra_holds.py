"""One client per identity: who has it, among all ingest processes, and until when it may stay.

A session's record names the ingest that had its client last. Whether that one has it still is
asked of it, so that neither a broken socket nor a dead process leaves a lock behind.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import nats.errors

from speechbus_contracts import ROOT, IngestSubject
from speechbus_ingest.doors.palabra_store import SESSION_TTL_S, SessionStore, StoredSession
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.publisher import StaleGuardError

__all__ = ["HeldSession", "SessionBusyError", "SessionGoneError", "SessionHolds"]

GRACE_S: Final = 1.0
"""A client whose socket broke comes back at once: its ghost gets this long to be noticed."""
POLL_S: Final = 0.1
ASK_TIMEOUT_S: Final = 0.5
"""A busy ingest answers within this; one that does not answer is frozen, and may thaw."""
PROLONG_S: Final = 60.0
"""While a client is connected, its session is prolonged this often, as Palabra does."""
RETRY_S: Final = 1.0

_HELD: Final = b"1"
_FREE: Final = b"0"


class SessionGoneError(Exception):
    """There is no such session, or no more."""


class SessionBusyError(Exception):
    """Another client has the session."""


class HeldSession:
    """A session whose client is connected here."""

    def __init__(self, tenant: str, session_id: str) -> None:
        self.tenant = tenant
        self.session_id = session_id
        self.changed = asyncio.Event()
        """Set when somebody may have written about it."""
        self.stored: StoredSession | None = None
        """As it was read or written last; None: not yet."""

    @property
    def name(self) -> str:
        """Of the session among those of all tenants."""
        return f"{self.tenant}.{self.session_id}"


class SessionHolds:
    """The identities whose clients are connected to this process.

    Args:
        bus: control connection.
        store: of the sessions.
        ingest_id: name of this process, unlike any other's.
        per_key_max: clients of one tenant at once that came with its key.
        now_ms: ms since 1970.
    """

    def __init__(
        self,
        bus: BusConnection,
        store: SessionStore,
        *,
        ingest_id: str,
        per_key_max: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._bus = bus
        self._store = store
        self._ingest_id = ingest_id
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._per_key_max = per_key_max
        self._held: dict[str, HeldSession] = {}
        self._with_key: Counter[str] = Counter()
        bus.subscribe_direct(f"{ROOT}.session.*.*", self._notice)
        bus.subscribe_direct(str(IngestSubject(ingest_id, "holds")), self._answer)
        bus.on_reconnected(self._notice_all)

    @asynccontextmanager
    async def hold(self, tenant: str, session_id: str) -> AsyncGenerator[HeldSession, None]:
        """Have a session for one client during the block.

        Raises:
            SessionGoneError: it does not live.
            SessionBusyError: another client has it, for longer than `GRACE_S`.
            JetStreamUnavailableError: that cannot be found out now.
        """
        held = HeldSession(tenant, session_id)
        give_up_at_s = self._loop.time() + GRACE_S
        while not await self._take(held):
            await self._wait_for_ghosts(give_up_at_s)
        try:
            yield held
        finally:
            del self._held[held.name]

    @asynccontextmanager
    async def hold_key(self, tenant: str) -> AsyncGenerator[None, None]:
        """Count a client that came with its tenant's key, during the block.

        Raises:
            SessionBusyError: as many as may be are connected, for longer than `GRACE_S`.
        """
        give_up_at_s = self._loop.time() + GRACE_S
        while self._with_key[tenant] >= self._per_key_max:
            await self._wait_for_ghosts(give_up_at_s)
        self._with_key[tenant] += 1
        try:
            yield
        finally:
            self._with_key[tenant] -= 1

    async def _wait_for_ghosts(self, give_up_at_s: float) -> None:
        if self._loop.time() >= give_up_at_s:
            raise SessionBusyError
        await asyncio.sleep(POLL_S)

    async def watch(self, held: HeldSession) -> None:
        """Keep a held session alive; return when its client may stay no longer.

        It was deleted, has expired, or another ingest took it while this one was cut off from NATS.
        """
        prolong_at_s = self._loop.time() + PROLONG_S
        while True:
            held.changed.clear()
            try:
                stored = await self._read(held)
                session = stored.session
                if not session.lives(now_ms=self._now_ms()) or session.holder != self._ingest_id:
                    return
                if self._loop.time() >= prolong_at_s:
                    stored = await self._claim(stored)
                    prolong_at_s = self._loop.time() + PROLONG_S
            except StaleGuardError:
                continue
            except JetStreamUnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            held.stored = stored
            left_s = (stored.session.expires_at - self._now_ms()) / 1000
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(prolong_at_s, self._loop.time() + left_s)):
                    await held.changed.wait()

    async def _read(self, held: HeldSession) -> StoredSession:
        assert held.stored is not None, "it was claimed"
        stored = await self._store.read(held.tenant, held.session_id)
        if stored is None and held.stored.session.lives(now_ms=self._now_ms()):
            # Deleting leaves a word, so the store itself was lost. That is not the client's fault.
            return await self._claim(StoredSession(held.stored.session, 0))
        return stored or held.stored

    async def _take(self, held: HeldSession) -> bool:
        """Try once; False: another client has it."""
        if held.name in self._held:
            return False
        self._held[held.name] = held  # before the first wait: two at once must not both go on
        is_taken = False
        try:
            while not is_taken:
                stored = await self._store.read(held.tenant, held.session_id)
                if stored is None or not stored.session.lives(now_ms=self._now_ms()):
                    raise SessionGoneError
                if await self._is_held_elsewhere(stored.session.holder, held.name):
                    return False
                try:
                    held.stored = await self._claim(stored)
                    is_taken = True
                except StaleGuardError:
                    continue
            return True
        finally:
            if not is_taken:
                del self._held[held.name]

    async def _claim(self, stored: StoredSession) -> StoredSession:
        expires_at = max(stored.session.expires_at, self._now_ms() + SESSION_TTL_S * 1000)
        return await self._store.update(stored, expires_at=expires_at, holder=self._ingest_id)

    async def _is_held_elsewhere(self, holder: str | None, name: str) -> bool:
        if holder is None or holder == self._ingest_id:
            return False
        try:
            answer = await self._bus.request(
                str(IngestSubject(holder, "holds")), name.encode(), timeout=ASK_TIMEOUT_S
            )
        except nats.errors.NoRespondersError:
            return False  # it is gone, and its clients' connections with it
        except (nats.errors.TimeoutError, TimeoutError):
            return True
        except (nats.errors.Error, OSError) as error:
            raise JetStreamUnavailableError(type(error).__name__) from None
        return answer.data != _FREE

    # --- from the bus --------------------------------------------------------------------------

    def _notice(self, subject: bytes, _reply: bytes, _payload: bytes, _h: bytes) -> None:
        # What it says is read from the store: a core subscriber also sees writes that are refused.
        held = self._held.get(subject.decode().removeprefix(f"{ROOT}.session."))
        if held is not None:
            held.changed.set()

    async def _notice_all(self) -> None:
        for held in self._held.values():
            held.changed.set()

    def _answer(self, _subject: bytes, reply: bytes, payload: bytes, _h: bytes) -> None:
        if reply:  # else nobody asks
            is_held = payload.decode(errors="replace") in self._held
            self._bus.publish_nowait(reply, _HELD if is_held else _FREE)
