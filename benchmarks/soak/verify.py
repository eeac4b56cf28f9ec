"""Reads one stream's stored events and says what is wrong with them. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from speechbus_contracts import (
    AnyEvent,
    Gap,
    SegmentFinal,
    SegmentRetracted,
    StreamClaimed,
    StreamClosed,
    StreamOpened,
)
from tests.support.conversation import LOUD, sounds
from tests.support.frame_numbers import FRAME_MS

__all__ = ["Known", "Verdict", "verify_stream"]

TIME_ERROR_MS_MAX: Final = 20
EXPECTED_GAPS: Final = frozenset[str]()
"""Reasons of gaps that a soak may cause: none."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stream besides its stored events."""

    has_pauses: bool
    sent_ms: int
    """What its client has sent: no more can have been accepted."""
    accepted_ms: int
    """What was seen to be accepted: no less may be there."""
    finals: Sequence[tuple[int, int, str]] | None = None
    """Index, revision and text of those that the client was told; None: it did not stay."""
    ended: bool = False
    """The client said that this was all."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream's stored events say."""

    problems: Sequence[str]
    frames: int
    """Numbered frames that were accepted."""
    missing: int = 0
    """Of them, neither in a final nor in a gap."""
    doubled: int = 0
    time_error_ms: int = 0
    gap_ms: int = 0
    claims: int = 0


def verify_stream(events: Sequence[AnyEvent], known: Known) -> Verdict:
    """Check the stored events of one stream, in their order.

    Args:
        events: all of them.
        known: of the stream.
    """
    problems = [*_check_frame(events), *_check_owners(events), *_check_indices(events)]
    closed = next((event for event in events if isinstance(event, StreamClosed)), None)
    if closed is None:
        return Verdict(problems=[*problems, "never closed"], frames=0)
    finals = [event for event in events if isinstance(event, SegmentFinal)]
    gaps = [event for event in events if isinstance(event, Gap)]
    problems += _check_sums(closed, finals, gaps, known)
    audio_ms = max([closed.audio_ms, *(gap.to_ms for gap in gaps)])
    frames = Counter[int]()
    time_error_ms = 0
    order: list[int] = []
    for final in finals:
        numbers, error_ms = _read_final(final, has_pauses=known.has_pauses)
        frames.update(numbers)
        order += numbers
        time_error_ms = max(time_error_ms, error_ms)
    wanted = [
        frame
        for frame in range(1, audio_ms // FRAME_MS + 1)
        if not known.has_pauses or sounds(frame)
    ]
    missing = [frame for frame in wanted if not frames[frame] and not _is_in(gaps, frame)]
    doubled = [frame for frame, count in frames.items() if count > 1]
    strange = set(frames) - set(wanted)
    problems += [
        *_name("lost", missing),
        *_name("doubled", sorted(doubled)),
        *_name("never sent", sorted(strange)),
        *_name("said and in a gap", [f for f in frames if _is_wholly_in(gaps, f)]),
    ]
    if order != sorted(order):
        problems.append("frames out of order")
    if time_error_ms > TIME_ERROR_MS_MAX:
        problems.append(f"times wrong by {time_error_ms} ms")
    return Verdict(
        problems=problems,
        frames=len(wanted),
        missing=len(missing),
        doubled=len(doubled),
        time_error_ms=time_error_ms,
        gap_ms=sum(gap.to_ms - gap.from_ms for gap in gaps),
        claims=sum(isinstance(event, StreamClaimed) for event in events),
    )


def _check_frame(events: Sequence[AnyEvent]) -> Iterable[str]:
    """One beginning, one end; nothing behind it but what its ingest says was lost.

    A worker that claims in the moment in which the former one closes may still get its claim in.
    """
    if not events or not isinstance(events[0], StreamOpened):
        yield "does not begin with opened"
    for kind, name in ((StreamOpened, "opened"), (StreamClosed, "closed")):
        count = sum(isinstance(event, kind) for event in events)
        if count > 1:
            yield f"{name} {count} times"
    ends = [n for n, event in enumerate(events) if isinstance(event, StreamClosed)]
    if ends and any(not isinstance(event, Gap | StreamClaimed) for event in events[ends[0] + 1 :]):
        yield "events behind closed"


def _check_owners(events: Sequence[AnyEvent]) -> Iterable[str]:
    """What stands behind a claim was written by its owner."""
    epoch = 0
    for event in events:
        if isinstance(event, StreamClaimed):
            if event.epoch <= epoch:
                yield f"claim of epoch {event.epoch} behind {epoch}"
            epoch = event.epoch
        elif getattr(event, "epoch", epoch) != epoch:
            yield f"{type(event).__name__} of epoch {getattr(event, 'epoch', None)} under {epoch}"


def _check_indices(events: Sequence[AnyEvent]) -> Iterable[str]:
    """Each segment is over once, and none is left out."""
    over = [event.index for event in events if isinstance(event, SegmentFinal | SegmentRetracted)]
    refused = [event for event in events if isinstance(event, Gap) and event.reason == "refused"]
    if over != list(range(len(over))) and not refused:
        yield f"indices are not continuous: {_runs(over)}"


def _check_sums(
    closed: StreamClosed, finals: Sequence[SegmentFinal], gaps: Sequence[Gap], known: Known
) -> Iterable[str]:
    before = [gap for gap in gaps if gap.from_ms < closed.audio_ms]
    if closed.finals != len(finals):
        yield f"closed counts {closed.finals} finals, there are {len(finals)}"
    if closed.gap_ms != sum(gap.to_ms - gap.from_ms for gap in before):
        yield f"closed counts {closed.gap_ms} ms in gaps, which is not their sum"
    for gap in gaps:
        if gap.reason not in EXPECTED_GAPS:
            yield f"a gap, {gap.from_ms} to {gap.to_ms} ms, {gap.reason}"
    if known.ended and closed.reason != "end":
        yield f"closed for {closed.reason} though its client said end"
    if closed.audio_ms > known.sent_ms:
        yield f"has {closed.audio_ms} ms, only {known.sent_ms} were sent"
    wanted_ms = known.sent_ms if known.ended else known.accepted_ms
    if closed.audio_ms < wanted_ms:
        yield f"has {closed.audio_ms} ms of the {wanted_ms} that were accepted"
    if known.finals is not None:
        stored = [(final.index, final.revision, final.text) for final in finals]
        if list(known.finals) != stored:
            yield f"its client was told {len(known.finals)} finals that are not those stored"


def _read_final(final: SegmentFinal, *, has_pauses: bool) -> tuple[list[int], int]:
    """Return the frames that a final names, and how far off its times are, ms."""
    base = LOUD if has_pauses else 0
    numbers: list[int] = []
    error_ms = 0
    at_ms = final.start_ms
    for run in final.text.split():
        first, last = (int(number) - base for number in run.split("-"))
        numbers += range(first, last + 1)
        if not has_pauses:
            error_ms = max(error_ms, abs(at_ms - (first - 1) * FRAME_MS))
            at_ms += (last - first + 1) * FRAME_MS
    if not numbers:
        return [], 0
    if not has_pauses:
        return numbers, max(error_ms, abs(at_ms - final.end_ms))
    # A final may begin and end in a pause: only what sounds has to lie within its times.
    early_ms = final.start_ms - (numbers[0] - 1) * FRAME_MS
    late_ms = numbers[-1] * FRAME_MS - final.end_ms
    return numbers, max(0, early_ms, late_ms)


def _is_in(gaps: Sequence[Gap], frame: int) -> bool:
    return any(
        gap.from_ms < frame * FRAME_MS and (frame - 1) * FRAME_MS < gap.to_ms for gap in gaps
    )


def _is_wholly_in(gaps: Sequence[Gap], frame: int) -> bool:
    return any(
        gap.from_ms <= (frame - 1) * FRAME_MS and frame * FRAME_MS <= gap.to_ms for gap in gaps
    )


def _name(what: str, frames: Sequence[int]) -> list[str]:
    return [f"{what}: {len(frames)} frames, {_runs(frames)}"] if frames else []


def _runs(numbers: Sequence[int]) -> str:
    """Write numbers as runs, the first ten of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{first}-{last}" for first, last in runs[:10]]
    return " ".join([*shown, "…"] if len(runs) > 10 else shown)
