"""Which settings of a session the simulated Kotoba takes. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec

from speechbus_simulator.samples import RATES_HZ, Encoding
from speechbus_wire import kotoba as wire

__all__ = ["ENCODINGS", "settle"]

KEYWORDS_MAX: Final = 1_000
KEYWORD_CHARS_MAX: Final = 64
"""As on fal (providers.md 1.4)."""
TELEPHONE_HZ: Final = 8_000
"""G.711 has no other rate (providers.md 1.4)."""
ENCODINGS: Final[Mapping[str, Encoding]] = {
    "pcm16": "pcm_s16le",
    "float32": "pcm_f32le",
    "mulaw": "mulaw",
    "twilio": "mulaw",
}


def settle(asked: wire.Session) -> wire.Session:
    """Return the session as it will be.

    Raises:
        RequestError: it cannot be.
    """
    if asked.input_audio_format not in ENCODINGS:
        raise wire.RequestError(
            "invalid_parameters",
            f"The simulator hears {', '.join(ENCODINGS)}.",
            param="input_audio_format",
        )
    if ENCODINGS[asked.input_audio_format] == "mulaw":
        asked = msgspec.structs.replace(asked, input_audio_sample_rate=TELEPHONE_HZ)
    if asked.input_audio_sample_rate not in RATES_HZ:
        raise wire.RequestError(
            "invalid_parameters",
            f"Rates are {RATES_HZ[0]} to {RATES_HZ[-1]}.",
            param="input_audio_sample_rate",
        )
    wanted = asked.input_audio_transcription
    if not wanted.target_language:
        raise wire.RequestError(
            "invalid_parameters", "target_language is required.", param="target_language"
        )
    if len(wanted.keywords) > KEYWORDS_MAX or any(
        len(word) > KEYWORD_CHARS_MAX for word in wanted.keywords
    ):
        raise wire.RequestError(
            "invalid_parameters",
            f"At most {KEYWORDS_MAX} keywords of {KEYWORD_CHARS_MAX} characters.",
            param="keywords",
        )
    return asked
