"""Says which session may be opened when; shares with the pool what it takes to know.

For sessions all calls are plain ones. One task settles the ledgers, another one asks after silent
workers and tries dead providers. Without a limit and without trouble nothing is written.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from speechbus_contracts import PROVIDER_STORE
from speechbus_contracts.subjects import GOVERN_ROOT, PROVIDER_ROOT
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, fetch_last, read_sequence
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.driver import Connections
from speechbus_transcriber.governor.admission import Admission, WithoutSlot
from speechbus_transcriber.governor.breaker import BreakerRecord
from speechbus_transcriber.governor.breakers import Breakers
from speechbus_transcriber.governor.ledger import Ledger
from speechbus_transcriber.governor.probe import PATIENCE_S, try_handshake
from speechbus_transcriber.governor.seats import Lease, Ticket
from speechbus_transcriber.governor.settling import RETRY_S, Settling
from speechbus_transcriber.governor.shared_state import PauseRecord, SharedState, decode_record
from speechbus_transcriber.governor.throttle import Throttle
from speechbus_transcriber.providers.interface import (
    ProviderError,
    ProviderRateLimitedError,
    ProviderRejectedError,
)
from speechbus_transcriber.providers.registry import Provider

__all__ = ["CHECK_ACCOUNT", "CREDENTIALS_REFUSED", "Governor"]

logger = logging.getLogger(__name__)

CREDENTIALS_REFUSED: Final = frozenset({"http_401", "http_403", "invalid_api_key"})
CHECK_ACCOUNT: Final = "check this provider's variables: PALABRA_…, KOTOBA_… (`speechbus doctor`)"
TICK_S: Final = 1.0
STALL_S: Final = 3.0
"""A turn of the tick this late comes after a freeze: others may have taken our slots."""
FAREWELL_S: Final = 2.0
"""For the last sessions' connections to end, and for the slots to be given back."""


class Governor:
    """Shares the providers' sessions with the other workers.

    Args:
        bus: control connection.
        publisher: of the same connection.
        connections: for handshakes.
        providers: of this worker.
        worker_id: this worker.
        without_slot: what sessions do that find no room.
        now_ms: ms since 1970.

    Attributes:
        n_refusals: sessions refused for want of room.
        n_handshakes: with dead providers.
    """

    def __init__(
        self,
        bus: BusConnection,
        publisher: AckedPublisher,
        connections: Connections,
        providers: Mapping[str, Provider],
        *,
        worker_id: str,
        without_slot: WithoutSlot,
        now_ms: Callable[[], int],
    ) -> None:
        self._bus = bus
        self._state = SharedState(bus, publisher)
        self._connections = connections
        self._providers = providers
        self._worker_id = worker_id
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.TaskGroup()
        self._admission = Admission(providers, worker=worker_id, without_slot=without_slot)
        self._breakers = Breakers(
            providers,
            self._state,
            try_handshake=self._try_handshake,
            is_connected=lambda: self._bus.is_connected,
            on_change=self._place,
            tasks=self._tasks,
            now_ms=now_ms,
        )
        self._settling = Settling(
            bus,
            self._state,
            self._admission.by_id.values(),
            worker_id=worker_id,
            place=self._place,
        )
        self._timer: asyncio.TimerHandle | None = None
        self.n_refusals = 0
        self.n_handshakes = 0
        bus.subscribe_direct(f"{PROVIDER_ROOT}.>", self._hear)
        bus.on_reconnected(self._after_reconnect)

    @property
    def n_slots_lost(self) -> int:
        """Sessions ended because their slots had gone to others."""
        return self._settling.n_lost

    # --- for sessions: plain calls -------------------------------------------------------------

    def ask(
        self,
        names: Sequence[str],
        *,
        wake: Callable[[], None],
        patience_s: float = 0.0,
        rest_s: float = 0.0,
    ) -> Ticket:
        """Ask for a lease; the ticket may have it at once.

        Args:
            names: providers that will do, in the order of preference.
            wake: called when the ticket gets its lease later.
            patience_s: wait so long for a slot of the first one before others will do.
            rest_s: where all are dead, wait so long for one to be found well.
        """
        now_s = self._loop.time()
        ticket = Ticket(
            names, wake, patient_until_s=now_s + patience_s, rest_until_s=now_s + rest_s
        )
        self._admission.add(ticket)
        self._place()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """The session is not wanted any more; a lease goes back."""
        self._admission.withdraw(ticket)
        if ticket.lease is not None:
            self.release(ticket.lease)
        else:
            self._place()

    def open(self, lease: Lease) -> None:
        """The session's connection stands."""
        lease.has_opened = True
        self._throttle(lease).open(lease.number, now_s=self._loop.time())

    def hear(self, lease: Lease) -> None:
        """The provider has answered; only the first time means anything."""
        if lease.was_heard:
            return
        lease.was_heard = True
        self._throttle(lease).accept(lease.number)
        self._breakers.succeed(lease.provider)
        self._place()

    def release(self, lease: Lease) -> None:
        """The session's connection has ended."""
        self._admission.give_back(lease, now_s=self._loop.time())
        self._place()

    def fail(self, lease: Lease, error: ProviderError, *, stream_id: str) -> bool:
        """The session has failed; learn from it.

        Returns:
            Whether the route should go on as if nothing had happened: the slot had gone to another
            worker, or another credential of the provider may do.
        """
        is_excused = lease.is_lost
        if lease.is_lost:
            pass
        elif isinstance(error, ProviderRateLimitedError):
            self._limit(lease, error)
        elif isinstance(error, ProviderRejectedError):
            if error.code in CREDENTIALS_REFUSED:
                now_s = self._loop.time()
                is_news = not self._admission.is_refused(lease.account.id, now_s=now_s)
                is_excused = self._admission.refuse(lease, now_s=now_s)
                if is_news and is_excused:
                    logger.warning(
                        "a credential was refused; others of its provider are used",
                        extra={
                            "provider": lease.provider,
                            "credential": lease.account.id,
                            "advice": CHECK_ACCOUNT,
                        },
                    )
        elif not lease.was_heard:
            self._breakers.fail(lease.provider, stream_id, is_handshake=not lease.has_opened)
        self._place()
        return is_excused

    def is_dead(self, provider: str) -> bool:
        """Whether nobody should ask this provider who can go elsewhere."""
        return provider in self._breakers.dead

    def _limit(self, lease: Lease, error: ProviderRateLimitedError) -> None:
        self.n_refusals += 1
        throttle = self._throttle(lease)
        wait_s = throttle.refuse(
            began_at_s=lease.began_at_s,
            retry_after_s=error.retry_after_s,
            now_s=self._loop.time(),
        )
        if wait_s > 0:
            record = PauseRecord(
                wait_ms=int(wait_s * 1000),
                n_refusals=throttle.n_refusals,
                is_asked=error.retry_after_s is not None,
                written_at=self._now_ms(),
            )
            self._state.tell_pause(lease.account.id, record)

    def _throttle(self, lease: Lease) -> Throttle:
        return self._admission.by_id[lease.account.id].throttle

    def _place(self) -> None:
        """Give out what there is, and have the ledgers settled."""
        now_s = self._loop.time()
        for ticket in self._admission.place(now_s=now_s, dead=self._breakers.dead):
            ticket.wake()
        self._settling.wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = self._admission.next_at_s(now_s=now_s)
        if at_s is not None:
            self._timer = self._loop.call_at(at_s, self._place)

    # --- what the pool says --------------------------------------------------------------------

    def _hear(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        self._take(subject.decode(), payload, read_sequence(headers), is_news=True)
        self._place()

    def _take(self, subject: str, payload: bytes, sequence: int, *, is_news: bool) -> None:
        kind, name = subject.split(".")[-2:]
        seats = self._admission.by_id.get(name)
        if kind == "breaker":
            if (record := decode_record(payload, BreakerRecord)) is not None:
                self._breakers.hear(name, record, sequence, is_news=is_news)
        elif seats is None:
            pass
        elif kind == "slots":
            if (ledger := decode_record(payload, Ledger)) is not None:
                self._settling.hear(seats, ledger, sequence)
        elif kind == "pause" and (pause := decode_record(payload, PauseRecord)) is not None:
            age_s = 0.0 if is_news else (self._now_ms() - pause.written_at) / 1000
            seats.throttle.hear_pause(
                pause.wait_ms / 1000 - max(0.0, age_s),
                n_refusals=pause.n_refusals,
                is_asked=pause.is_asked,
                now_s=self._loop.time(),
            )

    async def _after_reconnect(self) -> None:
        self._settling.distrust()

    # --- the tasks -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Govern until cancelled."""
        async with self._tasks:
            self._tasks.create_task(self._learn_and_settle(), name="ledgers")
            try:
                await self._watch()
            finally:
                self._breakers.close()

    async def stop(self) -> None:
        """Give back what this worker has; its streams have ended. Waits `FAREWELL_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._settling.wait_until_out()

    async def _learn_and_settle(self) -> None:
        await self._learn()
        await self._settling.run()

    async def _learn(self) -> None:
        """Read what was said before this worker was there."""
        has_warned = False
        while True:
            try:
                said = await fetch_last(self._bus, PROVIDER_STORE, [f"{GOVERN_ROOT}.>"])
            except JetStreamUnavailableError:
                if not has_warned:
                    has_warned = True
                    logger.warning("waiting for the store PROVIDER: run `speechbus bootstrap`")
                await asyncio.sleep(RETRY_S)
            else:
                for one in said:
                    if ".slots." not in one.subject:  # these are read from the leader
                        self._take(one.subject, one.payload, one.sequence, is_news=False)
                self._place()
                return

    async def _watch(self) -> None:
        turned_at_s = self._loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._loop.time()
            if now_s - turned_at_s > STALL_S:
                self._settling.distrust()
            turned_at_s = now_s
            if self._bus.is_connected:
                await self._settling.ask_after_workers()
                self._breakers.try_due()

    async def _try_handshake(self, name: str) -> bool | None:
        woken = asyncio.Event()
        ticket = self.ask([name], wake=woken.set)
        if ticket.lease is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await woken.wait()
        lease = ticket.lease
        if lease is None:
            self.withdraw(ticket)
            return None  # all slots are in use
        self.n_handshakes += 1
        return await try_handshake(
            lease.account.open_protocol,
            self._providers[name].capabilities,
            self._connections,
            on_gone=partial(self.release, lease),
        )
