"""JSON events to bytes and back."""

from typing import Final

import msgspec

from speechbus_contracts.captions import CaptionJoined
from speechbus_contracts.errors import ContractError
from speechbus_contracts.events import Event
from speechbus_contracts.segments import SegmentFinal, SegmentPartial, SegmentRetracted
from speechbus_contracts.streams import (
    Gap,
    JobOpen,
    StreamClaimed,
    StreamClosed,
    StreamCovered,
    StreamFlushed,
    StreamLag,
    StreamOpened,
    StreamReconfigured,
    StreamResumed,
    StreamWaiting,
    TurnEnded,
    TurnStarted,
    WorkerHeartbeat,
)
from speechbus_contracts.translations import (
    TranslationFinal,
    TranslationMissing,
    TranslationPartial,
)

__all__ = ["EVENT_TYPES", "AnyEvent", "decode_event", "encode_event"]

AnyEvent = (
    SegmentPartial
    | SegmentFinal
    | SegmentRetracted
    | TranslationPartial
    | TranslationFinal
    | TranslationMissing
    | CaptionJoined
    | Gap
    | StreamOpened
    | StreamReconfigured
    | StreamClaimed
    | StreamResumed
    | StreamCovered
    | StreamFlushed
    | StreamClosed
    | StreamWaiting
    | TurnStarted
    | TurnEnded
    | StreamLag
    | JobOpen
    | WorkerHeartbeat
)

EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    SegmentPartial,
    SegmentFinal,
    SegmentRetracted,
    TranslationPartial,
    TranslationFinal,
    TranslationMissing,
    CaptionJoined,
    Gap,
    StreamOpened,
    StreamReconfigured,
    StreamClaimed,
    StreamResumed,
    StreamCovered,
    StreamFlushed,
    StreamClosed,
    StreamWaiting,
    TurnStarted,
    TurnEnded,
    StreamLag,
    JobOpen,
    WorkerHeartbeat,
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[AnyEvent]] = msgspec.json.Decoder(AnyEvent)


def encode_event(event: Event) -> bytes:
    """Return the JSON of one event.

    Raises:
        ContractError: a text holds half a surrogate pair, which UTF-8 cannot spell.
    """
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:
        # `from None`: the error carries the text, which may be speech.
        raise ContractError("a text of the event is not valid Unicode") from None


def decode_event(message: bytes) -> AnyEvent:
    """Read one JSON event; unknown fields are ignored.

    Raises:
        ContractError: not JSON, an unknown `type`, a missing field, one of another type, or an
            integer beyond 2**53 - 1.
    """
    try:
        return _decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # `from None`: the decoder's text may quote speech.
        raise ContractError("not a valid event of speech.v1") from None
