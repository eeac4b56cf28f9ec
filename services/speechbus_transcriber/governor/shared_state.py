"""What workers tell each other about providers: reading and writing the store `PROVIDER`."""

import logging
import os
from typing import Final, TypeVar

import msgspec

from speechbus_contracts import (
    PROVIDER_STORE,
    GovernKind,
    GovernSubject,
    build_claim_headers,
    build_dedup_headers,
)
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import read_last
from speechbus_runtime.publisher import AckedPublisher
from speechbus_transcriber.governor.breaker import BreakerRecord
from speechbus_transcriber.governor.ledger import EMPTY, Ledger

__all__ = ["PauseRecord", "SharedState", "decode_record"]

logger = logging.getLogger(__name__)

T = TypeVar("T", Ledger, BreakerRecord, "PauseRecord")


class PauseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A credential has no room: nobody asks for a session with it for a while."""

    wait_ms: int
    n_refusals: int
    """Pauses in a row."""
    is_asked: bool
    """The provider has named this pause."""
    written_at: int
    """ms since 1970, on its worker's clock."""


_encoder: Final = msgspec.json.Encoder()


def decode_record(payload: bytes, kind: type[T]) -> T | None:
    """Read what some worker wrote; None: it is of a version that this one does not understand."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError:
        logger.warning("what another worker says about a provider cannot be read")
        return None


class SharedState:
    """The store `PROVIDER`.

    Args:
        bus: for reads and unacknowledged writes.
        publisher: for compare-and-set.
    """

    def __init__(self, bus: BusConnection, publisher: AckedPublisher) -> None:
        self._bus = bus
        self._publisher = publisher

    async def read_ledger(self, name: str) -> tuple[Ledger, int]:
        """Return a credential's ledger and its sequence, from the leader.

        Raises:
            JetStreamUnavailableError: no answer; try again.
        """
        stored = await read_last(self._bus, PROVIDER_STORE, str(GovernSubject("slots", name)))
        if stored is None:
            return EMPTY, 0
        return decode_record(stored.payload, Ledger) or EMPTY, stored.sequence

    async def replace(
        self, kind: GovernKind, name: str, record: Ledger | BreakerRecord, *, last_sequence: int
    ) -> int:
        """Write the next word, unless somebody else has; return its sequence.

        Raises:
            StaleGuardError: somebody else has.
            PublishRefusedError: the store does not take it.
        """
        headers = build_claim_headers(_new_id(name), last_claim_sequence=last_sequence)
        ack = await self._publisher.publish(
            str(GovernSubject(kind, name)),
            _encoder.encode(record),
            headers=encode_headers(headers),
        )
        return ack.seq

    def tell_pause(self, name: str, record: PauseRecord) -> None:
        """Tell the pool of a pause; one that gets lost costs others a refusal."""
        self._bus.publish_nowait(
            str(GovernSubject("pause", name)).encode(),
            _encoder.encode(record),
            headers=encode_headers(build_dedup_headers(_new_id(name))),
        )


def _new_id(name: str) -> str:
    return f"{name}:{os.urandom(8).hex()}"
