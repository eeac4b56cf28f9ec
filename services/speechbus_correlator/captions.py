"""The captions in JetStream: each revision is stored there once, whoever and how many make it."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from speechbus_contracts import (
    CaptionJoined,
    CaptionSubject,
    ContractError,
    build_dedup_headers,
    caption_dedup_id,
    encode_event,
)
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.publisher import AckedPublisher, PublishRefusedError

__all__ = ["STORE_WITHIN_S", "CaptionNotStoredError", "CaptionWriter"]

STORE_WITHIN_S: Final = 5.0
"""Half the consumer's `ack_wait`: we have given up before the event is delivered again. An
answer takes 1 ms; elections take 4 to 9 s, and those the redelivery covers."""


NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class CaptionNotStoredError(Exception):
    """JetStream did not take a caption: leave its event unacknowledged, it will come again."""


class CaptionWriter:
    """Writes captions to JetStream.

    Args:
        bus: the connection.
        publisher: on that connection.
    """

    def __init__(self, bus: BusConnection, publisher: AckedPublisher) -> None:
        self._bus = bus
        self._publisher = publisher

    async def write(
        self, caption: CaptionJoined, *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Return when the caption is stored, by us now or by anyone before.

        After the store's `duplicate_window` a repetition is stored again: the same caption, under
        the same revision.

        Args:
            caption: as joined.
            headers: of its message, beside its own.

        Raises:
            ContractError: the caption is larger than a message may be.
            CaptionNotStoredError: not within `STORE_WITHIN_S`, or refused.
        """
        dedup_id = caption_dedup_id(caption.transcription_id, caption.revision)
        block = encode_headers({**build_dedup_headers(dedup_id), **headers})
        payload = encode_event(caption)
        if len(block) + len(payload) > self._bus.max_payload:
            # The server would cut the connection, and each redelivery would cut it again.
            raise ContractError("a caption is larger than a message may be")
        subject = str(CaptionSubject(caption.tenant, caption.stream_id))
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                await self._publisher.publish(subject, payload, headers=block)
        except (TimeoutError, PublishRefusedError) as error:
            raise CaptionNotStoredError(type(error).__name__) from None
