"""What a simulator is told to do: a small TOML file. Pure."""

import tomllib
from typing import Annotated, Final, Literal, get_args

import msgspec

__all__ = ["FAULT_KINDS", "Fault", "FaultKind", "Script", "ScriptError", "Text", "parse_script"]

FaultKind = Literal[
    "refuse",
    "reset",
    "half_open",
    "mute",
    "close",
    "garbage",
    "duplicate_final",
    "tail_rewrite",
    "early_translation",
    "late_translation",
    "missing_translation",
    "rate_limit_error",
    "string_error",
]
FAULT_KINDS: Final[tuple[str, ...]] = get_args(FaultKind)
SCRIPT_BYTES_MAX: Final = 1 << 20

_Ms = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
_Length = Annotated[int, msgspec.Meta(ge=20, le=60_000)]


class ScriptError(Exception):
    """The script is wrong; the text says where, and what is allowed."""


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment of `text` mode."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]
    ms: _Length
    """How much audio it takes."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that goes wrong."""

    kind: FaultKind
    session: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Only in the nth session since the start, from 1; 0: in each."""
    after_ms: _Ms = 0
    """After so much audio of the session."""
    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)] = 1011
    """Of `close`."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    """Of `refuse`."""
    retry_after_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Of `refuse`."""
    language: str = ""
    """Of the faults of translations: only this target; empty: all."""
    delay_ms: _Ms = 2_000
    """Of `late_translation`."""


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a simulator does; the defaults are a provider that works."""

    mode: Literal["echo", "text"] = "echo"
    """`echo`: the frame numbers in the audio; `text`: `texts`, again and again."""
    texts: tuple[Text, ...] = ()
    segment_ms: _Length = 3_000
    """Audio of one segment in `echo` mode."""
    partial_ms: _Length = 500
    """Audio between two partials."""
    latency_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0
    """Between audio and what is said about it."""
    keys: tuple[str, ...] = ()
    """API keys that are accepted; none: any."""
    client_id: str = ""
    """Accepted for a session; empty: any."""
    client_secret: str = ""
    """Accepted for a session; empty: any."""
    sessions_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Sessions at once, beyond which the next is refused; 0: no limit."""
    is_real_time: bool = True
    """Audio beyond real time plus 0.5 s is not transcribed, as at Palabra."""
    idle_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 10_000
    """A session without audio is closed after this; 0: never."""
    faults: tuple[Fault, ...] = ()


def parse_script(content: bytes) -> Script:
    """Read a script.

    Raises:
        ScriptError: it is no TOML, or has keys or values that no script has.
    """
    if len(content) > SCRIPT_BYTES_MAX:
        raise ScriptError(f"A script has at most {SCRIPT_BYTES_MAX} bytes.")
    try:
        tables = tomllib.loads(content.decode())
        script = msgspec.convert(tables, Script)
    except UnicodeDecodeError:
        raise ScriptError("The script is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise ScriptError(f"The script is no TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise ScriptError(f"{error}. docs/simulators.md lists all keys.") from None
    if script.mode == "text" and not script.texts:
        raise ScriptError('mode = "text" needs [[texts]] with text and ms.')
    return script
