"""The captions in JetStream: each final is told there once, whoever and how many tell it."""

import asyncio
import base64
from itertools import count
from typing import Final

from speechbus_contracts import (
    CAPTION_STORE,
    CaptionJoined,
    CaptionSubject,
    ContractError,
    SegmentFinal,
    build_dedup_headers,
    caption_dedup_id,
    decode_event,
    encode_event,
)
from speechbus_correlator.join import is_told, join_final
from speechbus_runtime.bus import BusConnection, encode_headers
from speechbus_runtime.jetstream import JetStreamError, JetStreamUnavailableError, request_api
from speechbus_runtime.publisher import Ack, AckedPublisher, PublishRefusedError

__all__ = ["STORE_WITHIN_S", "CaptionNotStoredError", "CaptionWriter"]

STORE_WITHIN_S: Final = 5.0
"""Half the consumer's `ack_wait`: we have given up before the final is delivered again. An
answer takes 1 ms; elections take 4 to 9 s, and those the redelivery covers."""


class CaptionNotStoredError(Exception):
    """JetStream did not take a caption: leave its final unacknowledged, it will come again."""


class CaptionWriter:
    """Writes captions to JetStream.

    Args:
        bus: the connection.
        publisher: on that connection.
    """

    def __init__(self, bus: BusConnection, publisher: AckedPublisher) -> None:
        self._bus = bus
        self._publisher = publisher

    async def write(self, final: SegmentFinal) -> None:
        """Return when the caption of `final` is stored, by us now or by anyone before.

        Holds within the store's `duplicate_window`: after it, a repetition is stored again, with
        the same revision.

        Raises:
            ContractError: the caption would be larger than a message may be.
            CaptionNotStoredError: not within `STORE_WITHIN_S`, or refused.
        """
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                for revision in count():
                    ack = await self._publish(join_final(final, revision=revision))
                    if not ack.duplicate:
                        return
                    # The revision is taken: by a repetition of this final, or by another final
                    # of the segment. The answer says where the one that took it lies.
                    earlier = await self._read(ack.seq)
                    if earlier is None or is_told(final, earlier):
                        return
        except (
            TimeoutError,
            PublishRefusedError,
            JetStreamError,
            JetStreamUnavailableError,
        ) as error:
            raise CaptionNotStoredError(type(error).__name__) from None

    async def _publish(self, caption: CaptionJoined) -> Ack:
        dedup_id = caption_dedup_id(caption.transcription_id, caption.revision)
        headers = encode_headers(build_dedup_headers(dedup_id))
        payload = encode_event(caption)
        if len(headers) + len(payload) > self._bus.max_payload:
            # The server would cut the connection, and each redelivery would cut it again.
            raise ContractError("a caption is larger than a message may be")
        subject = str(CaptionSubject(caption.tenant, caption.stream_id))
        return await self._publisher.publish(subject, payload, headers=headers)

    async def _read(self, sequence: int) -> CaptionJoined | None:
        """Return a stored caption; None: it has been deleted since, or is none."""
        try:
            answer = await request_api(
                self._bus, f"STREAM.MSG.GET.{CAPTION_STORE}", {"seq": sequence}
            )
        except JetStreamError as error:
            if error.err_code == 10037:  # no message found
                return None
            raise
        try:
            event = decode_event(base64.b64decode(answer["message"]["data"]))
        except ContractError:
            return None
        return event if isinstance(event, CaptionJoined) else None
