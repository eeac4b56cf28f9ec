"""Translations of segments."""

from speechbus_contracts.events import Integer, StreamEvent

__all__ = ["TranslationFinal", "TranslationMissing", "TranslationPartial"]


class _Translation(StreamEvent, frozen=True, kw_only=True):
    transcription_id: str
    """The source segment's."""
    language: str
    """BCP 47 tag of `text`."""
    text: str
    start_ms: Integer
    end_ms: Integer
    provider: str
    revision: Integer
    """The revision of the source that was translated: a final, or with partials a partial."""


class TranslationPartial(_Translation, frozen=True, kw_only=True, tag="translation.partial"):
    """A translation of a partial, which the next one replaces; as of their partials."""

    epoch: Integer = 0
    """Of the partial that was translated; 0: not known."""


class TranslationFinal(_Translation, frozen=True, kw_only=True, tag="translation.final"):
    """The translation of one final into one language."""

    source_sequence: Integer | None = None
    """Sequence of the source final in TRANSCRIPT; null: not known to the translator."""


class TranslationMissing(StreamEvent, frozen=True, kw_only=True, tag="translation.missing"):
    """Nobody will translate this final into this language: do not wait for it."""

    transcription_id: str
    """The source segment's."""
    language: str
    """BCP 47 tag of what is missing."""
    revision: Integer
    """The revision of the source final."""
    reason: str
    """`no_engine`: no engine serves the pair; `refused`: the engine did not take the text;
    `unavailable`: no engine answered for as long as it was tried; `undelivered`: the provider that
    promised it has not delivered, and no engine can (it may still come)."""
    source_sequence: Integer | None = None
    """Sequence of the source final in TRANSCRIPT; null: not known to the translator."""
