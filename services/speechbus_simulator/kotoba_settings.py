"""Which settings of a session the simulated Kotoba takes. Pure."""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from speechbus_simulator.samples import RATES_HZ, Encoding
from speechbus_wire import kotoba as wire

__all__ = ["ENCODINGS", "fill_in", "settle"]

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


_Session = TypeVar("_Session", bound=wire.Session)


def fill_in(asked: _Session) -> _Session:
    """Return the same settings with what was left out."""
    wanted = asked.input_audio_transcription
    wanted = msgspec.structs.replace(wanted, timestamps=bool(wanted.timestamps))
    return msgspec.structs.replace(asked, input_audio_transcription=wanted)


def settle(asked: wire.Session, *, is_old: bool) -> wire.Session:
    """Return the session as it will be.

    Args:
        asked: by the client.
        is_old: the server has no turn detection and no times yet (providers.md 1.1).

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
    if is_old and asked.turn_detection is not False:
        raise wire.RequestError(
            "invalid_parameters", "turn_detection is false.", param="turn_detection"
        )
    if is_old and wanted.timestamps is not msgspec.UNSET:
        raise wire.RequestError(
            "invalid_parameters", "There are no timestamps.", param="timestamps"
        )
    return fill_in(asked)
