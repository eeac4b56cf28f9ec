"""Kotoba's turns as results with times that follow each other. Pure."""

from typing import Final

from speechbus_transcriber.providers.interface import Covered, Heard

__all__ = ["KotobaFinals"]

LAG_MS: Final = 2_000
"""Text without times comes at most so long behind the audio that has it: recognized at once in most
servers, a second later in slow ones."""


class KotobaFinals:
    """The partials and finals of one session, one behind the other whatever their times say.

    Args:
        language: of all of them.
    """

    def __init__(self, *, language: str | None) -> None:
        self.covered_ms = 0
        """Audio before this is in finals, or holds no speech."""
        self._language = language
        self._last_end_ms = 0

    def show(self, text: str, start_ms: int, end_ms: int) -> Heard:
        """Return a partial."""
        start_ms = max(start_ms, self._last_end_ms)
        return self._hear(text, start_ms, max(end_ms, start_ms))

    def end(
        self,
        text: str,
        start_ms: int,
        end_ms: int,
        *,
        has_times: bool,
        processed_ms: int | None,
    ) -> Heard:
        """Return a final.

        Args:
            text: of the turn.
            start_ms: of the turn.
            end_ms: of the turn.
            has_times: the server has told `end_ms`. Otherwise it is where the audio was when the
                text came, and what follows may have been said before that: a turn covers no more
                than what surely lies before its end. It begins behind the turn before it, so from
                there on it is heard again as a whole, and not cut (ADR 0013).
            processed_ms: where later text starts, at the earliest; None: unknown.
        """
        start_ms = max(start_ms, self._last_end_ms)
        before_ms, self._last_end_ms = self._last_end_ms, max(end_ms, start_ms)
        heard_ms = self._last_end_ms if has_times else min(before_ms, self._last_end_ms - LAG_MS)
        # Behind all that was covered, even without a time of its own: else it would be taken for
        # something said before. But it covers no more for that.
        end_ms = max(self._last_end_ms, self.covered_ms + 1)
        self.covered_ms = max(self.covered_ms, heard_ms, processed_ms or 0)
        return self._hear(text, start_ms, end_ms, covered_ms=self.covered_ms)

    def cover(self, until_ms: int) -> list[Covered]:
        """All audio before this was heard, and nothing is open."""
        if until_ms <= self.covered_ms:
            return []
        self.covered_ms = until_ms
        return [Covered(until_ms)]

    def _hear(
        self, text: str, start_ms: int, end_ms: int, *, covered_ms: int | None = None
    ) -> Heard:
        return Heard(
            text=text.strip(),
            is_final=covered_ms is not None,
            start_ms=start_ms,
            end_ms=end_ms,
            covered_ms=covered_ms,
            language=self._language,
        )
