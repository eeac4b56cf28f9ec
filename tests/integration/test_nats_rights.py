"""deploy/nats/users.conf, against a real server: what each user needs works, all else is refused.

Each user tries everything that anybody could want. What it may is written out here once more, by
the subjects of a stream; a right that is added without a line here, or lost, fails.
"""

import asyncio
from collections.abc import Iterator
from typing import Final, get_args

import pytest

from speechbus_contracts.subjects import GovernKind, LiveKind, WriteKind
from tests.support.nats_server import NatsServer
from tests.support.secured_nats import USERS, build_secured_nats, connect_as

pytestmark = pytest.mark.nats

STORES: Final = ("AUDIO_0", "AUDIO_15", "TRANSCRIPT", "JOBS", "CAPTION", "SESSION", "PROVIDER")
CONSUMERS: Final = (
    "JOBS.pool",
    "TRANSCRIPT.correlator-segments",
    "TRANSCRIPT.translator-segments",
    "TRANSCRIPT.reader-acme",
)
WRITES: Final = tuple(f"speech.v1.write.acme.s1.{kind}" for kind in get_args(WriteKind))
PARTIAL_TRANSLATION: Final = "speech.v1.live.acme.s1.partial_translation"
LIVES: Final = tuple(f"speech.v1.live.acme.s1.{kind}" for kind in get_args(LiveKind))
GOVERNS: Final = tuple(f"speech.v1.govern.{kind}.c1" for kind in get_args(GovernKind))


def everything_to_publish() -> tuple[str, ...]:
    """Every subject of the contract, every call of JetStream's, and the server's own."""
    inboxes = tuple(
        f"_INBOX_{user}.{answer}"
        for user in (*USERS, "reader-acme", "sys")
        for answer in ("answer", "client.request", "client.lane.chunk")
    )
    of_store = (
        *("STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.INFO"),
        *("STREAM.MSG.GET", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE"),
        *("STREAM.LEADER.STEPDOWN", "STREAM.PEER.REMOVE", "DIRECT.GET"),
        *("CONSUMER.LIST", "CONSUMER.NAMES", "CONSUMER.CREATE"),
    )
    of_consumer = (
        *("CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE", "CONSUMER.INFO"),
        *("CONSUMER.MSG.NEXT", "CONSUMER.LEADER.STEPDOWN", "CONSUMER.PAUSE", "CONSUMER.UNPIN"),
    )
    return (
        *(*WRITES, "speech.v1.write.acme.s1.translation.es"),
        *(subject.replace(".write.", ".transcript.") for subject in WRITES),
        *("speech.v1.transcript.acme.s1.translation.es", "speech.v1.caption.acme.s1"),
        *(*LIVES, "speech.v1.audio.0.acme.s1", "speech.v1.job.open"),
        *("speech.v1.worker.w1.heartbeat", "speech.v1.worker.w1.ping"),
        *("speech.v1.ingest.i1.holds", "speech.v1.source.acme.s1.release"),
        *("speech.v1.session.acme.t1", *GOVERNS),
        *(subject.replace(".govern.", ".provider.") for subject in GOVERNS),
        *("speech.v1.unheard-of", "speech.v2.audio.0.acme.s1", "elsewhere"),
        *(*inboxes, "_INBOX.answer", "_R_.answer"),
        *("$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.ACCOUNT.PURGE.A"),
        *(f"$JS.API.{call}.{store}" for call in of_store for store in STORES),
        *(f"$JS.API.DIRECT.GET.{store}.speech.v1.write.acme.s1.final" for store in STORES),
        *(f"$JS.API.{call}.{consumer}" for call in of_consumer for consumer in CONSUMERS),
        "$JS.API.CONSUMER.CREATE.TRANSCRIPT.mine.speech.v1.write.acme.>",
        *(f"$JS.ACK.{consumer}.1.2.3.4.5" for consumer in CONSUMERS),
        *(
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.USER.INFO",
            "$KV.b.k",
            "$JS.EVENT.ADVISORY.x",
            "$SRV.PING",
        ),
    )


def everything_to_subscribe_to() -> tuple[str, ...]:
    """Every tree, as a whole and in part, all inboxes, and the server's own."""
    return (
        *(
            ">",
            "speech.>",
            "speech.v1.>",
            "*.>",
            "_INBOX.>",
            "_INBOX_*.>",
            "$JS.>",
            "$SYS.>",
            "$JS.ACK.>",
        ),
        *(f"_INBOX_{user}.>" for user in (*USERS, "reader-acme", "sys")),
        *("speech.v1.write.>", "speech.v1.write.acme.s1.final", "speech.v1.transcript.>"),
        *("speech.v1.transcript.*.*.claim", "speech.v1.transcript.acme.s1.>"),
        *("speech.v1.live.*.*.*", "speech.v1.live.acme.s1.*", "speech.v1.live.*.*.partial"),
        "speech.v1.caption.>",
        *("speech.v1.audio.*.*.*", "speech.v1.audio.0.acme.s1", "speech.v1.job.open"),
        *("speech.v1.worker.*.heartbeat", "speech.v1.worker.w1.ping", "speech.v1.worker.>"),
        *("speech.v1.ingest.i1.holds", "speech.v1.source.acme.s1.release"),
        *("speech.v1.session.*.*", "speech.v1.govern.>", "speech.v1.provider.>"),
    )


def of_stores(call: str, *stores: str) -> set[str]:
    return {f"$JS.API.{call}.{store}" for store in stores}


def of_consumer(consumer: str) -> set[str]:
    return {
        f"$JS.API.CONSUMER.INFO.{consumer}",
        f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
        f"$JS.ACK.{consumer}.1.2.3.4.5",
    }


def of_write(*kinds: str) -> set[str]:
    return {f"speech.v1.write.acme.s1.{kind}" for kind in kinds}


AUDIO: Final = ("AUDIO_0", "AUDIO_15")
MAY_PUBLISH: Final[dict[str, set[str]]] = {
    "ingest": {
        *("speech.v1.audio.0.acme.s1", "speech.v1.job.open", "speech.v1.session.acme.t1"),
        *of_write("opened", "reconfigured", "resumed", "gap"),
        *("speech.v1.worker.w1.ping", "speech.v1.ingest.i1.holds"),
        *("speech.v1.source.acme.s1.release", "$JS.API.INFO", "_INBOX_ingest.answer"),
        *("_INBOX_ingest.client.request", "_INBOX_ingest.client.lane.chunk"),
        *of_stores("STREAM.INFO", *AUDIO, "TRANSCRIPT", "JOBS", "SESSION"),
        *of_stores("DIRECT.GET", *AUDIO, "TRANSCRIPT", "SESSION"),
        *of_stores("STREAM.MSG.GET", *AUDIO, "TRANSCRIPT", "SESSION"),
        # What lives in memory dies with its server, and ingest makes it again.
        *of_stores("STREAM.CREATE", *AUDIO),
        *of_stores("STREAM.DELETE", *AUDIO),
    },
    "transcriber": {
        *of_write("claim", "final", "retracted", "translation.es", "gap", "covered", "flushed"),
        *(*of_write("closed"), *GOVERNS, "speech.v1.job.open"),
        *(live for live in LIVES if live != PARTIAL_TRANSLATION),
        *("speech.v1.worker.w1.heartbeat", "speech.v1.worker.w1.ping"),
        # Answers to pings; not the acknowledgement of a chunk.
        *("_INBOX_ingest.client.request", "_INBOX_transcriber.client.request"),
        *of_consumer("JOBS.pool"),
        "$JS.API.CONSUMER.INFO.TRANSCRIPT.translator-segments",
        *of_stores("STREAM.INFO", *AUDIO, "TRANSCRIPT", "PROVIDER"),
        *of_stores("DIRECT.GET", *AUDIO, "TRANSCRIPT", "PROVIDER"),
        *of_stores("STREAM.MSG.GET", "TRANSCRIPT", "PROVIDER"),
        *of_stores("STREAM.CREATE", *AUDIO),
    },
    "correlator": {
        "speech.v1.caption.acme.s1",
        *of_consumer("TRANSCRIPT.correlator-segments"),
        *of_stores("STREAM.INFO", "TRANSCRIPT", "CAPTION"),
        *of_stores("STREAM.MSG.GET", "TRANSCRIPT", "CAPTION"),
        *of_stores("DIRECT.GET", "TRANSCRIPT"),
    },
    "translator": {
        *of_write("translation.es"),
        *of_consumer("TRANSCRIPT.translator-segments"),
        *of_stores("STREAM.INFO", "TRANSCRIPT"),
        *of_stores("DIRECT.GET", "TRANSCRIPT"),
        PARTIAL_TRANSLATION,
    },
    "bootstrap": {subject for subject in everything_to_publish() if subject.startswith("$JS.API.")},
    "operator": {
        *("$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES"),
        *of_stores("STREAM.INFO", *STORES),
        *of_stores("CONSUMER.LIST", *STORES),
        *of_stores("CONSUMER.NAMES", *STORES),
        *(f"$JS.API.CONSUMER.INFO.{consumer}" for consumer in CONSUMERS),
        *of_stores("STREAM.MSG.GET", "TRANSCRIPT", "CAPTION"),
        *of_stores("DIRECT.GET", "TRANSCRIPT", "CAPTION"),
        "$JS.API.DIRECT.GET.TRANSCRIPT.speech.v1.write.acme.s1.final",
        "$JS.API.DIRECT.GET.CAPTION.speech.v1.write.acme.s1.final",
    },
}
MAY_SUBSCRIBE: Final[dict[str, set[str]]] = {
    "ingest": {
        *("speech.v1.transcript.>", "speech.v1.transcript.*.*.claim"),
        *("speech.v1.transcript.acme.s1.>", "speech.v1.live.*.*.*", "speech.v1.live.acme.s1.*"),
        "speech.v1.live.*.*.partial",
        *("speech.v1.worker.*.heartbeat", "speech.v1.session.*.*"),
        *("speech.v1.ingest.i1.holds", "speech.v1.source.acme.s1.release"),
    },
    "transcriber": {
        *("speech.v1.audio.*.*.*", "speech.v1.audio.0.acme.s1", "speech.v1.transcript.*.*.claim"),
        *("speech.v1.worker.*.heartbeat", "speech.v1.worker.w1.ping", "speech.v1.provider.>"),
    },
    "correlator": set(),
    "translator": {"speech.v1.live.*.*.partial"},
    "bootstrap": set(),
    "operator": {
        *("speech.v1.transcript.>", "speech.v1.transcript.*.*.claim"),
        *("speech.v1.transcript.acme.s1.>", "speech.v1.live.*.*.*", "speech.v1.live.acme.s1.*"),
        "speech.v1.live.*.*.partial",
        *("speech.v1.caption.>", "speech.v1.worker.*.heartbeat"),
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with build_secured_nats(tmp_path_factory.mktemp("nats"), tenants=("acme",)) as running:
        yield running


@pytest.mark.parametrize("user", USERS)
def test_a_user_may_publish_what_it_needs_and_nothing_else(server: NatsServer, user: str) -> None:
    """A service that was broken into, or is wrong, does no more than its own work."""
    subjects = everything_to_publish()

    denied = asyncio.run(try_to_publish(server, user, subjects))

    assert set(subjects) - denied == MAY_PUBLISH[user]


@pytest.mark.parametrize("user", USERS)
def test_a_user_may_hear_what_it_needs_and_nothing_else(server: NatsServer, user: str) -> None:
    """Above all nobody else's answers."""
    subjects = everything_to_subscribe_to()

    denied = asyncio.run(try_to_subscribe(server, user, subjects))

    assert set(subjects) - denied == MAY_SUBSCRIBE[user] | {f"_INBOX_{user}.>"}


async def try_to_publish(server: NatsServer, user: str, subjects: tuple[str, ...]) -> set[str]:
    """Return those that the server denied."""
    bus = await connect_as(server, user)
    denied: set[str] = set()
    bus.on_denied(lambda what: denied.add(what.removeprefix('Publish to "').rstrip('"')))
    for subject in subjects:
        assert bus.publish_nowait(subject.encode(), b"{}")
    await bus.flush()  # the server's words come before its pong
    await bus.shut_down()
    return denied


async def try_to_subscribe(server: NatsServer, user: str, subjects: tuple[str, ...]) -> set[str]:
    """Return those that the server denied."""
    bus = await connect_as(server, user)
    denied: set[str] = set()
    bus.on_denied(lambda what: denied.add(what.removeprefix('Subscription to "').rstrip('"')))
    for subject in subjects:
        bus.subscribe_direct(subject, ignore)
    await bus.flush()
    await bus.shut_down()
    return denied


def ignore(_subject: bytes, _reply: bytes, _payload: bytes, _headers: bytes) -> None:
    """Nobody speaks."""
