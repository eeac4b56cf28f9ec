"""Which language is spoken where in a stream. Pure."""

from bisect import bisect_left, bisect_right

__all__ = ["Languages"]


class Languages:
    """The languages of one stream, each from a place on.

    Args:
        first: BCP 47 tag that the stream was opened with; None: the provider decides.
    """

    def __init__(self, first: str | None) -> None:
        self._from_samples = [0]
        self._languages = [first]

    def change(self, at_sample: int, language: str | None) -> None:
        """Another one is spoken from this sample on; of two in one place the later said counts."""
        place = bisect_left(self._from_samples, at_sample)
        if self._from_samples[place : place + 1] == [at_sample]:
            self._languages[place] = language
        else:
            self._from_samples.insert(place, at_sample)
            self._languages.insert(place, language)

    def at(self, sample: int) -> str | None:
        """Return the language of this sample and those right behind it."""
        return self._languages[max(0, bisect_right(self._from_samples, sample) - 1)]

    def forget(self, before_sample: int) -> None:
        """Nobody will ask for what was spoken before this sample."""
        n_past = max(0, bisect_right(self._from_samples, before_sample) - 1)
        del self._from_samples[:n_past], self._languages[:n_past]
