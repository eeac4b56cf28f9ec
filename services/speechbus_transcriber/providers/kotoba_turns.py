"""Kotoba's turns, open and final, as results in order. Pure.

Deltas are appended to a turn, `completed` repeats them and ends it (providers.md 1.6). Which turn
it ends is told by its id, its words, or its place, in this order of trust; see ADR 0013. A turn is
shown while it is the oldest open one. What was made final without its `completed` is remembered,
so that this one, when it comes, says only what is new.
"""

from collections import deque
from typing import Final

import msgspec

from speechbus_transcriber.providers.interface import Result
from speechbus_transcriber.providers.kotoba_finals import KotobaFinals
from speechbus_transcriber.providers.kotoba_matching import find_run, keep_letters, skip_letters

__all__ = ["Completion", "KotobaTurns", "Piece"]

OPEN_MAX: Final = 16
"""Turns open at once: one, and those whose `completed` comes out of order."""
SAID_MAX: Final = 256
"""Deltas in finals without a `completed`, which may still come: a minute of speech."""
ENDED_MAX: Final = 64
"""Turns that are complete, of which a message may come again."""
COVER_EVERY_MS: Final = 1_000
"""Silence is covered in steps of this: empty deltas come every 80 ms."""


class Piece(msgspec.Struct, frozen=True):
    """The text of one delta, and its place in the stream."""

    text: str
    start_ms: int
    end_ms: int
    has_times: bool
    """Whether the server has told them."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What `completed` says of a turn, in the stream's time."""

    item_id: str | None
    """As it came."""
    key: str | None
    """The same, if it is an id of the server's own."""
    text: str
    start_ms: int
    end_ms: int
    has_times: bool
    """Whether the server has told them."""
    processed_ms: int | None
    """Later text starts no earlier."""


class _Turn(msgspec.Struct, kw_only=True, eq=False):
    key: str | None
    pieces: list[Piece]
    completion: Completion | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


class KotobaTurns:
    """The turns of one session.

    Args:
        language: of all of them.
    """

    def __init__(self, *, language: str | None) -> None:
        self._finals = KotobaFinals(language=language)
        self._turns: list[_Turn] = []
        # One for each delta: before the open turns, in the order of the stream.
        self._said: deque[_Turn] = deque(maxlen=SAID_MAX)
        # By id: letters of the `completed` that no delta has had.
        self._ended: dict[str, str] = {}
        self._completions: deque[Completion] = deque(maxlen=ENDED_MAX)
        self._shares_ids = False  # deltas and `completed` have been seen with the same id

    @property
    def is_any_open(self) -> bool:
        """Whether a turn is not final yet."""
        return bool(self._turns)

    @property
    def is_any_held(self) -> bool:
        """Whether a turn is complete and waits for an earlier one."""
        return any(turn.completion is not None for turn in self._turns)

    @property
    def open_text(self) -> str:
        """Of the last turn, if that is open."""
        return self._turns[-1].text if self._turns else ""

    @property
    def open_ms(self) -> int:
        """How long the oldest open turn is."""
        if not self._turns:
            return 0
        pieces = self._turns[0].pieces
        return pieces[-1].end_ms - pieces[0].start_ms

    def add(self, key: str | None, piece: Piece) -> list[Result]:
        """Take a delta that is not empty.

        Args:
            key: id of its turn; None: it has none of the server's own.
            piece: what to append.
        """
        if key is not None and self._is_late(key, piece):
            return []
        turn = self._find_open(key)
        if turn is None:
            if not piece.text.strip():
                return []
            turn = _Turn(key=key, pieces=[])
            self._insert(turn, piece.start_ms)
        turn.pieces.append(piece)
        results: list[Result] = []
        if len(self._turns) > OPEN_MAX:
            results += [*self._end_as_heard(), *self._release()]
        if self._turns[0] is turn:
            start_ms, end_ms = turn.pieces[0].start_ms, piece.end_ms
            results.append(self._finals.show(turn.text, start_ms, end_ms))
        return results

    def complete(self, completion: Completion) -> list[Result]:
        """Take the end of a turn; said again, it is nothing new."""
        is_known = any(_is_same(completion, known) for known in self._completions)
        # Without an id, equal words may be those of another turn: its deltas tell.
        if is_known and completion.item_id is not None:
            return []
        wanted = keep_letters(completion.text)
        run = self._find_run(completion.key, wanted) if wanted else None
        if run is None and (is_known or self._is_over(completion.key)):
            return []
        self._completions.append(completion)
        if run is not None:
            self._complete_run(completion, *run)
        else:
            self._complete_nearly(completion, wanted)
        return self._release()

    def end_all(self) -> list[Result]:
        """Nobody ends what is open: it ends as it was heard."""
        results: list[Result] = []
        while self._turns:
            results += [*self._end_as_heard(), *self._release()]
        return results

    def stop_holding(self) -> list[Result]:
        """The `completed` of earlier turns does not come: those end as they were heard."""
        results: list[Result] = []
        while self.is_any_held:
            results += [*self._end_as_heard(), *self._release()]
        return results

    def cover(self, until_ms: int) -> list[Result]:
        """All audio before this was heard: it is covered, unless a turn is open."""
        return [] if self._turns else [*self._finals.cover(until_ms)]

    def cover_silence(self, until_ms: int) -> list[Result]:
        """The same, now and then."""
        is_much = until_ms >= self._finals.covered_ms + COVER_EVERY_MS
        return self.cover(until_ms) if is_much else []

    # --- which turn ----------------------------------------------------------------------------

    def _find_open(self, key: str | None) -> _Turn | None:
        """The turn that a delta goes on with."""
        if key is not None:
            return next((turn for turn in self._unended() if turn.key == key), None)
        last = self._turns[-1] if self._turns else None
        return last if last is not None and last.completion is None else None

    def _unended(self) -> list[_Turn]:
        return [turn for turn in self._turns if turn.completion is None]

    def _is_over(self, key: str | None) -> bool:
        """Whether the turn of this id is complete, and none with the same id has begun."""
        is_begun = any(turn.key == key for turn in (*self._said, *self._unended()))
        return key in self._ended and not is_begun

    def _is_late(self, key: str, piece: Piece) -> bool:
        """Whether a delta comes behind the `completed` that has its words."""
        letters = keep_letters(piece.text)
        if not letters:
            return self._is_over(key)
        owed = self._ended.get(key, "")
        if not owed.startswith(letters):
            return False
        self._ended[key] = owed.removeprefix(letters)
        return True

    def _find_run(self, key: str | None, wanted: str) -> tuple[int, int] | None:
        """The deltas that have exactly these words: a range of `_candidates`."""
        candidates = self._candidates()
        letters = [keep_letters(turn.pieces[n].text) for turn, n in candidates]
        named = [at for at, (turn, _) in enumerate(candidates) if turn.key == key is not None]
        if named:
            self._shares_ids = True
            return find_run(letters, wanted, must_touch=range(named[0], named[-1] + 1))
        if self._is_over(key):
            return None
        n_said = len(self._said)
        return find_run(letters, wanted, must_touch=range(n_said, len(letters))) or find_run(
            letters, wanted, must_touch=range(n_said)
        )

    def _candidates(self) -> list[tuple[_Turn, int]]:
        """Every delta that no `completed` has had: its turn, and which of it."""
        turns = (*self._said, *self._unended())
        return [(turn, n) for turn in turns for n in range(len(turn.pieces))]

    def _complete_run(self, completion: Completion, first: int, behind: int) -> None:
        """End the turn of these deltas; what else is in their turns belongs to others."""
        n_said = max(0, min(behind, len(self._said)) - first)
        run = self._candidates()[first:behind]
        said, run = run[:n_said], run[n_said:]
        for turn, _ in (*said, *run):
            self._note_ended(turn.key, "")
        self._note_ended(completion.key, "")
        n_letters = sum(len(keep_letters(turn.text)) for turn, _ in said)
        for turn, _ in said:
            self._said.remove(turn)
        if run:
            text = skip_letters(completion.text, n_letters) if said else completion.text
            self._cut_out(run, msgspec.structs.replace(completion, text=text))

    def _cut_out(self, run: list[tuple[_Turn, int]], completion: Completion) -> None:
        (first, n_first), (last, n_last) = run[0], run[-1]
        at, until = self._turns.index(first), self._turns.index(last) + 1
        pieces = [turn.pieces[n] for turn, n in run]
        former = _Turn(key=None, pieces=first.pieces[:n_first])  # its `completed` was lost
        if not keep_letters(former.text):
            former.pieces, pieces = [], [*former.pieces, *pieces]
        parts = [
            former,
            _Turn(key=completion.key, pieces=pieces, completion=completion),
            *(turn for turn in self._turns[at:until] if turn.completion is not None),
            _Turn(key=last.key, pieces=last.pieces[n_last + 1 :]),
        ]
        self._turns[at:until] = [turn for turn in parts if turn.pieces]

    def _complete_nearly(self, completion: Completion, wanted: str) -> None:
        """End the turn that is meant most likely; its deltas were other words, or were lost."""
        turn, is_sure = self._guess(completion, wanted)
        text = self._skip_said(completion, wanted)
        heard, new = "" if turn is None else keep_letters(turn.text), keep_letters(text)
        owed = new.removeprefix(heard) if new.startswith(heard) else ""
        self._note_ended(completion.key, owed)
        if turn is not None and (is_sure or turn.key is None):
            self._note_ended(turn.key, owed)
        elif turn is not None:
            self._keep_said(turn)  # if another one was meant, its own `completed` still comes
        elif new:
            piece = Piece(
                text, completion.start_ms, completion.end_ms, has_times=completion.has_times
            )
            turn = _Turn(key=completion.key, pieces=[piece])
            self._insert(turn, piece.start_ms)
        if turn is not None:
            turn.completion = msgspec.structs.replace(completion, text=text)

    def _guess(self, completion: Completion, wanted: str) -> tuple[_Turn | None, bool]:
        """The turn, and whether its id or its words say so."""
        turns = self._unended()
        key = completion.key
        if any(turn.key == key is not None for turn in (*self._said, *turns)):
            self._shares_ids = True
            return next((turn for turn in turns if turn.key == key), None), True
        if key is not None and self._shares_ids:
            return None, False  # of a turn that was never heard of
        if not wanted:  # takes back no words
            return next((turn for turn in turns if not keep_letters(turn.text)), None), True
        for turn in turns:
            letters = keep_letters(turn.text)
            if letters and wanted.startswith(letters):
                return turn, True
        if not completion.has_times:
            return (turns[0] if turns else None), False
        nearest = max(turns, key=lambda turn: _overlap_ms(turn, completion), default=None)
        is_near = nearest is not None and _overlap_ms(nearest, completion) >= 0
        return (nearest if is_near else None), False

    def _skip_said(self, completion: Completion, wanted: str) -> str:
        """What of a `completed` is not in finals yet; empty: the deltas have to tell."""
        said = [turn for turn in self._said if turn.key == completion.key]
        for n in range(len(said)):
            letters = keep_letters("".join(turn.text for turn in said[n:]))
            if wanted.startswith(letters):
                self._forget(said[n:])
                return skip_letters(completion.text, len(letters))
        return "" if completion.key is not None and said else completion.text

    def _keep_said(self, turn: _Turn) -> None:
        self._said += [_Turn(key=turn.key, pieces=[piece]) for piece in turn.pieces]

    def _forget(self, said: list[_Turn]) -> None:
        for turn in said:
            self._said.remove(turn)

    def _note_ended(self, key: str | None, owed: str) -> None:
        if key is not None:
            self._ended[key] = owed
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]

    # --- results -------------------------------------------------------------------------------

    def _insert(self, turn: _Turn, start_ms: int) -> None:
        """Put a turn into its place in time (case 18)."""
        later = (n for n, t in enumerate(self._turns) if t.pieces[0].start_ms > start_ms)
        self._turns.insert(next(later, len(self._turns)), turn)

    def _release(self) -> list[Result]:
        """The turns that are complete, up to the first that is not."""
        results: list[Result] = []
        while self._turns and self._turns[0].completion is not None:
            results.append(self._make_final(self._turns.pop(0)))
        return results

    def _end_as_heard(self) -> list[Result]:
        """Make the oldest open turn final without its `completed`."""
        turn = self._turns.pop(0)
        if turn.completion is None:
            self._keep_said(turn)
        return [self._make_final(turn)]

    def _make_final(self, turn: _Turn) -> Result:
        told = turn.completion
        start_ms, last = turn.pieces[0].start_ms, turn.pieces[-1]
        if told is None:
            return self._finals.end(
                turn.text, start_ms, last.end_ms, has_times=last.has_times, processed_ms=None
            )
        return self._finals.end(
            told.text if told.text.strip() else turn.text,
            start_ms,
            told.end_ms if told.has_times else last.end_ms,
            has_times=told.has_times or last.has_times,
            # Of what is open behind it, the beginning may have been processed, too.
            processed_ms=None if self._turns else told.processed_ms,
        )


def _is_same(completion: Completion, known: Completion) -> bool:
    """Whether one `completed` is the other again."""
    if completion.has_times and known.has_times and completion.start_ms != known.start_ms:
        return False
    is_same_item = completion.item_id == known.item_id
    return is_same_item and keep_letters(completion.text) == keep_letters(known.text)


def _overlap_ms(turn: _Turn, completion: Completion) -> int:
    start_ms = max(turn.pieces[0].start_ms, completion.start_ms)
    return min(turn.pieces[-1].end_ms, completion.end_ms) - start_ms
