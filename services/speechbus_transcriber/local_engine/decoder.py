"""PocketSphinx behind the few calls that one session needs; the only module that knows it."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

import msgspec
import pocketsphinx  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["FRAME_SAMPLES", "DecodedWord", "Decoder"]

FRAME_SAMPLES: Final = 160
"""Samples of 16 kHz audio per frame of the decoder's time axis: 10 ms."""

_FILLERS = frozenset({"<s>", "</s>", "<sil>"})


class DecodedWord(msgspec.Struct, frozen=True, kw_only=True):
    """One word of an utterance, with frames since the utterance's first sample."""

    text: str
    first_frame: int
    last_frame: int
    """The last frame that is part of the word."""
    probability: float
    """Posterior, 0 to 1; only meaningful once the utterance has ended."""


class _Segment(Protocol):
    word: str
    start_frame: int
    end_frame: int
    prob: float


class _PocketSphinx(Protocol):
    def start_utt(self) -> None: ...
    def process_raw(self, data: bytes, *, no_search: bool = ..., full_utt: bool = ...) -> int: ...
    def end_utt(self) -> None: ...
    def seg(self) -> Iterable[_Segment] | None: ...
    def get_cmn(self, *, update: bool) -> str: ...
    def set_cmn(self, mean: str) -> None: ...


class Decoder:
    """The large-vocabulary decoder and the estimator of its cepstral mean.

    Loading takes 0.3 to 1 s and 100 MB. A process forked afterwards shares the memory and has a
    decoder of its own, so load once and fork for each session.
    """

    def __init__(self, search: _PocketSphinx, estimator: _PocketSphinx) -> None:
        """Take two loaded decoders; `load` makes them."""
        self._search = search
        self._estimator = estimator

    @classmethod
    def load(cls) -> Self:
        """Load the models that PocketSphinx's wheel carries."""
        # The light search: on the real speech at hand as good as the full one, at half the cost.
        search = _open(fwdflat=False, maxhmmpf=3000)
        with tempfile.TemporaryDirectory() as folder:
            dictionary = Path(folder) / "one.dict"
            dictionary.write_text("a AH\n")
            # A keyphrase search over a single word loads no language model: 10 ms and 6 MB.
            estimator = _open(lm=None, keyphrase="a", dict=str(dictionary), cmn="batch")
        return cls(search, estimator)

    def prime(self, pcm: bytes) -> None:
        """Set the cepstral mean from the speech of this microphone, 16 kHz PCM s16le mono.

        Without it the decoder starts from a mean of its own, and a microphone that differs from
        that one makes it hear nonsense. Call between utterances or before the first audio of one.
        """
        if not pcm:
            return
        self._estimator.start_utt()
        self._estimator.process_raw(pcm, no_search=True, full_utt=True)
        mean = self._estimator.get_cmn(update=True)
        self._estimator.end_utt()
        self._search.set_cmn(mean)

    def start(self) -> None:
        """Begin an utterance; the cepstral mean goes on from the one before."""
        self._search.start_utt()

    def hear(self, pcm: bytes) -> None:
        """Take the utterance's next audio, 16 kHz PCM s16le mono."""
        # PocketSphinx raises IndexError on empty audio.
        if pcm:
            self._search.process_raw(pcm)

    def end(self) -> None:
        """End the utterance; `words` then gives the last word on it."""
        self._search.end_utt()

    def words(self) -> list[DecodedWord]:
        """Return the words so far, or of the ended utterance, without silence and noises."""
        return [
            DecodedWord(
                text=segment.word.partition("(")[0],
                first_frame=segment.start_frame,
                last_frame=segment.end_frame,
                probability=min(1.0, max(0.0, segment.prob)),
            )
            for segment in self._search.seg() or ()
            if not _is_filler(segment.word)
        ]


def _is_filler(word: str) -> bool:
    return word in _FILLERS or word.startswith(("[", "+"))


def _open(**config: object) -> _PocketSphinx:
    decoder_class = cast(Any, pocketsphinx).Decoder
    return cast(_PocketSphinx, decoder_class(samprate=16_000, loglevel="FATAL", **config))
