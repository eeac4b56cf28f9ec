"""What all engines have in common."""

from typing import Protocol

__all__ = ["Engine", "EngineRefusedError", "EngineUnavailableError", "primary"]


class EngineUnavailableError(Exception):
    """No answer now: try later, or another engine.

    Attributes:
        retry_after_s: what the engine asked for; None: it did not say.
    """

    def __init__(self, code: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code)
        self.retry_after_s = retry_after_s


class EngineRefusedError(Exception):
    """The engine will never take this text for this pair; its text holds a code only."""


class Engine(Protocol):
    """Translates texts between the languages that it serves.

    Languages are BCP 47 tags; a source of None is not known.
    """

    @property
    def name(self) -> str:
        """As translations name their provider."""
        ...

    def serves(self, source: str | None, target: str) -> bool:
        """Whether it translates this pair, as far as is known."""
        ...

    async def translate(self, text: str, *, source: str | None, target: str) -> str:
        """Return the translation; may be cancelled at any time.

        Raises:
            EngineUnavailableError: not now.
            EngineRefusedError: never.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and processes."""
        ...


def primary(tag: str) -> str:
    """Return the language of a BCP 47 tag, without region and script."""
    return tag.partition("-")[0].lower()
