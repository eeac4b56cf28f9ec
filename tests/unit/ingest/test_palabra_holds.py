"""Who has a session, and how long: in virtual time, against a store in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import nats.errors
import pytest

from speechbus_ingest.doors.palabra_holds import (
    GRACE_S,
    PROLONG_S,
    HeldSession,
    SessionBusyError,
    SessionGoneError,
    SessionHolds,
)
from speechbus_ingest.doors.palabra_store import (
    SESSION_TTL_S,
    Session,
    SessionStore,
    StoredSession,
)
from speechbus_runtime.jetstream import JetStreamUnavailableError
from speechbus_runtime.publisher import AckedPublisher, StaleGuardError
from tests.support.fake_bus import FakeBus
from tests.support.virtual_time import run_virtual

TENANT: Final = "acme"
SESSION_ID: Final = "01a1f813-a740-7bf3-a1c9-d27e40816cfe"
NAME: Final = f"{TENANT}.{SESSION_ID}"
WRONG_LAST_SEQUENCE: Final = 10071


def now_ms() -> int:
    """The loop's clock."""
    return round(asyncio.get_running_loop().time() * 1000)


class MemoryStore(SessionStore):
    """One session, with the store's compare-and-set."""

    def __init__(self, bus: FakeBus) -> None:
        super().__init__(bus, AckedPublisher(bus), now_ms=now_ms)
        self.word: StoredSession | None = None
        self.is_away = False
        self.writes = 0

    def put(self, **changes: object) -> None:
        """Somebody else writes."""
        session = Session(
            tenant=TENANT, session_id=SESSION_ID, created_at=0, updated_at=0, expires_at=60_000
        )
        self.word = StoredSession(
            msgspec.structs.replace(self.word.session if self.word else session, **changes),
            self.word.sequence + 1 if self.word else 1,
        )

    async def read(self, tenant: str, session_id: str) -> StoredSession | None:
        """The last word."""
        assert (tenant, session_id) == (TENANT, SESSION_ID)
        if self.is_away:
            raise JetStreamUnavailableError("away")
        return self.word

    async def update(
        self, stored: StoredSession, *, expires_at: int, holder: str | None
    ) -> StoredSession:
        """Write, if nobody wrote in between."""
        if stored.sequence != (self.word.sequence if self.word else 0):
            raise StaleGuardError(WRONG_LAST_SEQUENCE)
        self.writes += 1
        session = msgspec.structs.replace(stored.session, expires_at=expires_at, holder=holder)
        self.word = StoredSession(session, stored.sequence + 1)
        return self.word


class Place:
    """An ingest with a session in its store, at time zero."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.store = MemoryStore(self.bus)
        self.store.put()
        self.holds = SessionHolds(
            self.bus, self.store, ingest_id="here", per_key_max=2, now_ms=now_ms
        )

    def tell(self) -> None:
        """Somebody wrote about the session: every ingest hears it."""
        self.bus.deliver(f"speech.v1.session.{NAME}".encode(), b"{}")

    def is_held(self) -> bool:
        """What this ingest answers to another one."""
        self.bus.deliver(b"speech.v1.ingest.here.holds", NAME.encode(), reply=b"r")
        return self.bus.sent[-1].payload == b"1"

    @property
    def session(self) -> Session:
        """As it is stored."""
        assert self.store.word is not None
        return self.store.word.session


async def watch_until_over(place: Place, held: HeldSession) -> float:
    """Return when the client may stay no longer, in seconds."""
    await place.holds.watch(held)
    return asyncio.get_running_loop().time()


def run(test: Callable[[Place], Awaitable[None]]) -> None:
    """Run a test in virtual time."""

    async def main() -> None:
        await test(Place())

    run_virtual(main())


def test_a_question_without_an_address_is_not_answered() -> None:
    """An empty subject would end the connection to NATS, of all streams of this process."""

    async def test(place: Place) -> None:
        place.bus.deliver(b"speech.v1.ingest.here.holds", b"\xff")

        assert place.bus.sent == []

    run(test)


def test_a_session_is_held_by_one_client_until_it_goes() -> None:
    """And others are told so for exactly that long."""

    async def test(place: Place) -> None:
        before = place.is_held()
        async with place.holds.hold(TENANT, SESSION_ID):
            during = place.is_held()
            with pytest.raises(SessionBusyError):
                async with place.holds.hold(TENANT, SESSION_ID):
                    pass
            refused_at_s = asyncio.get_running_loop().time()

        assert (before, during, place.is_held()) == (False, True, False)
        assert GRACE_S <= refused_at_s < GRACE_S + 0.2
        assert (place.session.holder, place.session.expires_at) == ("here", SESSION_TTL_S * 1000)

    run(test)


def test_two_clients_in_the_same_moment_do_not_both_get_a_session() -> None:
    """Each waits for the store between looking and writing."""

    async def test(place: Place) -> None:
        outcomes: list[str] = []

        async def come() -> None:
            try:
                async with place.holds.hold(TENANT, SESSION_ID):
                    outcomes.append("in")
                    await asyncio.sleep(10)
            except SessionBusyError:
                outcomes.append("busy")

        async with asyncio.TaskGroup() as clients:
            for _ in range(3):
                clients.create_task(come())

        assert sorted(outcomes) == ["busy", "busy", "in"]

    run(test)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"0", "in"),
        (b"1", "busy"),
        (nats.errors.NoRespondersError(), "in"),
        (nats.errors.TimeoutError(), "busy"),
        (nats.errors.ConnectionClosedError(), "unavailable"),
    ],
)
def test_the_ingest_that_had_it_last_is_asked(answer: bytes | Exception, outcome: str) -> None:
    """Gone: free. Frozen: it may thaw, with its client. Nobody can be asked: nobody knows."""

    async def respond(_subject: str) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def test(place: Place) -> None:
        place.store.put(holder="there")
        place.bus.answer_request = respond
        found = "in"
        try:
            async with place.holds.hold(TENANT, SESSION_ID):
                assert place.session.holder == "here"
        except SessionBusyError:
            found = "busy"
        except JetStreamUnavailableError:
            found = "unavailable"

        assert found == outcome
        assert set(place.bus.requests) == {"speech.v1.ingest.there.holds"}
        assert not place.is_held()

    run(test)


@pytest.mark.parametrize("changes", [{"is_deleted": True}, {"expires_at": 0}])
def test_a_session_that_does_not_live_is_not_held(changes: dict[str, object]) -> None:
    """Nor does it leave anything behind."""

    async def test(place: Place) -> None:
        place.store.put(**changes)
        with pytest.raises(SessionGoneError):
            async with place.holds.hold(TENANT, SESSION_ID):
                pass

        assert not place.is_held()

    run(test)


def test_a_session_is_prolonged_every_minute_while_its_client_is_there() -> None:
    """A stream of twelve hours must not lose its session after one."""

    async def test(place: Place) -> None:
        async with place.holds.hold(TENANT, SESSION_ID) as held:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(12 * 3_600):
                    await place.holds.watch(held)

        assert place.store.writes == 12 * 60
        assert place.session.expires_at == (12 * 3_600 - PROLONG_S + SESSION_TTL_S) * 1000

    run(test)


def test_a_client_stays_until_its_session_expires_and_no_longer() -> None:
    """Somebody shortens its life; the store forgets it, or not yet."""

    async def test(place: Place) -> None:
        async with place.holds.hold(TENANT, SESSION_ID) as held, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_until_over(place, held))
            await asyncio.sleep(5)
            place.store.put(expires_at=7_000)
            place.tell()

        assert watching.result() == pytest.approx(7.0)

    run(test)


@pytest.mark.parametrize("changes", [{"is_deleted": True}, {"holder": "there"}])
def test_a_client_goes_when_its_session_is_deleted_or_taken(changes: dict[str, object]) -> None:
    """It was deleted anywhere, or another ingest took it while this one was cut off."""

    async def test(place: Place) -> None:
        async with place.holds.hold(TENANT, SESSION_ID) as held, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_until_over(place, held))
            await asyncio.sleep(5)
            place.store.put(**changes)
            place.tell()

        assert watching.result() == pytest.approx(5.0)

    run(test)


def test_what_was_written_while_nats_was_away_is_seen_when_it_is_back() -> None:
    """Nobody told this ingest; it looks by itself."""

    async def test(place: Place) -> None:
        async with place.holds.hold(TENANT, SESSION_ID) as held, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_until_over(place, held))
            await asyncio.sleep(5)
            place.store.is_away = True
            place.tell()
            place.store.put(is_deleted=True)
            await asyncio.sleep(5)
            place.store.is_away = False
            for hook in place.bus.reconnected:
                await hook()

        assert 10 <= watching.result() <= 11

    run(test)


def test_a_session_whose_store_was_lost_is_written_again() -> None:
    """Deleting leaves a word. A disk that broke is no reason to send a client away."""

    async def test(place: Place) -> None:
        async with place.holds.hold(TENANT, SESSION_ID) as held:
            place.store.word = None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await place.holds.watch(held)

        assert (place.session.holder, place.session.expires_at) == ("here", SESSION_TTL_S * 1000)

    run(test)


def test_clients_with_a_tenants_key_are_as_many_as_the_setting_says() -> None:
    """The limit here is two; one that goes makes room within the second."""

    async def test(place: Place) -> None:
        async def stay() -> None:
            async with place.holds.hold_key(TENANT):
                await asyncio.sleep(0.5)

        async with asyncio.TaskGroup() as clients, place.holds.hold_key(TENANT):
            clients.create_task(stay())
            await asyncio.sleep(0)
            async with place.holds.hold_key(TENANT), place.holds.hold_key("beta"):
                with pytest.raises(SessionBusyError):
                    async with place.holds.hold_key(TENANT):
                        pass

    run(test)
