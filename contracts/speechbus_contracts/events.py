"""What all JSON events have in common."""

from typing import Annotated, Final

import msgspec

__all__ = ["INTEGER_MAX", "Event", "Integer", "StreamEvent"]

INTEGER_MAX: Final = 2**53 - 1
"""Largest integer that readers of JSON in every language hold exactly (RFC 8259, section 6)."""

Integer = Annotated[int, msgspec.Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]
"""Every integer of an event; where less is allowed, the field says so."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event on the bus: a JSON object whose `type` says which.

    Readers ignore fields they do not know; new fields always have a default.
    """


class StreamEvent(Event, frozen=True, kw_only=True):
    """An event of one stream."""

    stream_id: str
    tenant: str
