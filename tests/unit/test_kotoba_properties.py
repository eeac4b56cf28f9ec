"""Whatever a server of Kotoba's protocol leaves out, repeats or reorders: each word is final once.

A simulated server says turns of known words, in each of the documents' manners (providers.md 1.1),
and its messages are lost, doubled and late. The real segmenter takes what the adapter makes of it.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbus_contracts import SegmentFinal
from speechbus_transcriber.checkpoint import Checkpoint
from speechbus_transcriber.providers.interface import Covered, Finished, Flushed, Heard, Result
from speechbus_transcriber.providers.kotoba_matching import keep_letters
from speechbus_transcriber.segmenter import SegmentContext, begin
from speechbus_wire import kotoba as wire
from tests.support.kotoba_session import KotobaSession, texts_of

Naming = Literal["turn", "append", "none", "delta"]
"""What `item_id` is: the turn's, the last append's, missing, or another one for each delta."""
CONTEXT: Final = SegmentContext(
    stream_id="s",
    tenant="t",
    epoch=1,
    provider="kotoba",
    language="ja",
    target_languages=(),
)


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a server speaks."""

    naming: Naming
    has_times: bool
    says_that_it_ends_turns: bool


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn, and what happens to its messages."""

    n_words: int
    has_full_stops: bool
    delta_ms: int
    """Audio before each delta."""
    arrives: Literal["lost", "early", "at once", "in the next turn", "behind the next turn"]
    """When its `completed` does; early: before its last delta, if ids tell whose that is."""
    n_again: int
    """How often it comes again at once."""
    is_again_later: bool
    """And behind the next turn."""
    completed_id: Literal["right", "other", "none"]
    is_spelled_otherwise: bool
    afterwards: Literal["on", "silence", "pause", "flush", "flush and pause"]


MANNERS = st.builds(
    Manner,
    naming=st.sampled_from(["turn", "append", "none", "delta"]),
    has_times=st.booleans(),
    says_that_it_ends_turns=st.booleans(),
)
TURNS = st.lists(
    st.builds(
        Turn,
        n_words=st.integers(1, 3),
        has_full_stops=st.booleans(),
        delta_ms=st.sampled_from([0, 100, 500]),
        arrives=st.sampled_from(
            ["at once", "lost", "early", "in the next turn", "behind the next turn"]
        ),
        n_again=st.integers(0, 2),
        is_again_later=st.booleans(),
        completed_id=st.sampled_from(["right", "other", "none"]),
        is_spelled_otherwise=st.booleans(),
        afterwards=st.sampled_from(["on", "silence", "pause", "flush", "flush and pause"]),
    ),
    min_size=1,
    max_size=6,
)


class Server:
    """Says turns into a session."""

    def __init__(self, manner: Manner) -> None:
        self.session = KotobaSession(
            turn_detection=wire.ServerVad() if manner.says_that_it_ends_turns else False
        )
        self.words: list[str] = []
        self._manner = manner
        self._last_append = ""
        self._later: list[tuple[int, wire.Completed]] = []
        self._n_deltas = 0

    def say(self, number: int, turn: Turn) -> None:
        """Say one turn."""
        is_early = (
            turn.arrives == "early"
            and turn.n_words > 1
            and self._manner.naming == "turn"
            and turn.completed_id == "right"
        )
        start_ms, item_id = self.session.sent_ms, None
        words = [
            f" w{len(self.words) + n:03d}{'.' * turn.has_full_stops}" for n in range(turn.n_words)
        ]
        self.words += words
        for n, word in enumerate(words):
            delta_ms = self.session.sent_ms
            self._speak(turn.delta_ms)
            item_id = self._name(number)
            if is_early and n == turn.n_words - 1:
                self._complete(number, turn, "".join(words), start_ms, item_id)
                self._bring(4 * number + 2)
            self.session.receive(
                wire.Delta(item_id=item_id, delta=word, **self._times(delta_ms, is_whole=False))
            )
            self._bring(4 * number + (1 if n == 0 else 2))
        if not is_early:
            self._complete(number, turn, "".join(words), start_ms, item_id)
        self._bring(4 * number + 3)
        if "flush" in turn.afterwards:
            self.session.flush()
        if "pause" in turn.afterwards:
            self.session.wait(3.0)
        if turn.afterwards == "silence":
            self._speak(6_000)
            processed_ms = self.session.sent_ms if self._manner.has_times else None
            self.session.receive(wire.Delta(item_id=None, audio_processed_ms=processed_ms))

    def end(self) -> None:
        """Bring what is late, and the end."""
        self.session.finish()
        self._bring(10_000)
        self.session.receive(wire.Committed())

    def _complete(
        self, number: int, turn: Turn, text: str, start_ms: int, item_id: str | None
    ) -> None:
        if turn.is_spelled_otherwise:
            text = text.strip().capitalize().replace(" ", "  ") + "!"
        ids = {"right": item_id, "other": f"completed{number}", "none": None}
        message = wire.Completed(
            item_id=ids[turn.completed_id], transcript=text, **self._times(start_ms, is_whole=True)
        )
        delays = {"early": 2, "at once": 2, "in the next turn": 5, "behind the next turn": 7}
        if turn.arrives != "lost":
            at = 4 * number + delays[turn.arrives]
            self._later += [(at, message)] * (1 + turn.n_again)
            self._later += [(4 * number + 8, message)] * turn.is_again_later

    def _speak(self, ms: int) -> None:
        for append in self.session.speak(ms):
            self._last_append = append["event_id"]

    def _bring(self, until: int) -> None:
        due = [message for at, message in self._later if at <= until]
        self._later = [later for later in self._later if later[0] > until]
        self.session.receive(*due)

    def _times(self, start_ms: int, *, is_whole: bool) -> dict[str, int]:
        if not self._manner.has_times:
            return {}
        times = {"start_ms": start_ms, "end_ms": self.session.sent_ms}
        return times | {"audio_processed_ms": self.session.sent_ms} if is_whole else times

    def _name(self, number: int) -> str | None:
        self._n_deltas += 1
        match self._manner.naming:
            case "turn":
                return f"turn{number}"
            case "append":
                return self._last_append
            case "delta":
                return f"delta{self._n_deltas}"
            case "none":
                return None


def segment(results: list[Result]) -> Iterator[SegmentFinal]:
    """What the stream makes of results."""
    checkpoint = Checkpoint()
    segmenter = begin(checkpoint, is_shown=False)
    for result in results:
        if isinstance(result, Heard):
            events, segmenter = segmenter.hear(result, CONTEXT, audio_received_at=0, now_ms=0)
        elif isinstance(result, Covered):
            events, segmenter = segmenter.cover(result.covered_ms, CONTEXT, audio_received_at=0)
        else:
            continue
        yield from (event for event in events if isinstance(event, SegmentFinal))


@settings(max_examples=300)
@given(manner=MANNERS, turns=TURNS)
def test_each_word_is_final_once_whatever_happens_to_its_messages(
    manner: Manner, turns: list[Turn]
) -> None:
    """In the order in which it was said, and at times that never run backwards."""
    server = Server(manner)
    for number, turn in enumerate(turns):
        server.say(number, turn)
    server.end()
    results = server.session.results
    finals = list(segment(results))

    assert keep_letters("".join(f.text for f in finals)) == keep_letters("".join(server.words))
    assert [final.text for final in finals] == texts_of(results)
    for one, next_one in pairwise(finals):
        assert one.start_ms <= next_one.start_ms
        assert one.end_ms <= next_one.end_ms
        assert one.covered_ms <= next_one.covered_ms
    assert all(f.start_ms <= f.end_ms for f in finals)
    assert all(f.covered_ms <= server.session.given_ms for f in finals)
    assert results.count(Flushed()) == sum("flush" in turn.afterwards for turn in turns)
    assert results.count(Finished()) == 1
    assert results[-1] == Finished()
