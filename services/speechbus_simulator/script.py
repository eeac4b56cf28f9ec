"""What a simulator is told to do: a small TOML file. Pure."""

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec

__all__ = [
    "FAULT_KEYS",
    "FAULT_KINDS",
    "Fault",
    "FaultKind",
    "Provider",
    "Script",
    "ScriptError",
    "Text",
    "parse_script",
]

Provider = Literal["kotoba", "palabra"]
FaultKind = Literal[
    "refuse",
    "refuse_token",
    "refuse_minting",
    "refuse_settings",
    "unanswered",
    "reset",
    "half_open",
    "mute",
    "close",
    "garbage",
    "unknown_message",
    "error",
    "string_error",
    "top_level_error",
    "fal_error",
    "rate_limit_error",
    "duplicate_final",
    "missing_final",
    "reordered_final",
    "revised_final",
    "empty_final",
    "other_id",
    "tail_rewrite",
    "empty_delta",
    "early_translation",
    "late_translation",
    "missing_translation",
    "duplicate_translation",
    "reordered_translation",
]
FAULT_KINDS: Final[tuple[str, ...]] = get_args(FaultKind)
SCRIPT_BYTES_MAX: Final = 1 << 20

_OF_REFUSALS: Final = frozenset({"status", "retry_after_s"})
_OF_TRANSLATIONS: Final = frozenset({"after_ms", "language"})
FAULT_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "refuse": _OF_REFUSALS | {"for_s"},
    "refuse_token": frozenset(),
    "refuse_minting": _OF_REFUSALS,
    "refuse_settings": frozenset(),
    "unanswered": frozenset(),
    "close": frozenset({"after_ms", "code"}),
    "error": frozenset({"after_ms", "error_code"}),
    "top_level_error": frozenset({"after_ms", "error_code"}),
    "fal_error": frozenset({"after_ms", "error_code"}),
    "early_translation": _OF_TRANSLATIONS,
    "late_translation": _OF_TRANSLATIONS | {"delay_ms"},
    "missing_translation": _OF_TRANSLATIONS,
    "duplicate_translation": _OF_TRANSLATIONS,
    "reordered_translation": _OF_TRANSLATIONS | {"delay_ms"},
}
"""What a fault may have besides `kind` and `session`; those that are not here: `after_ms`."""
_KINDS_OF_ONE: Final[Mapping[str, Provider]] = {
    "refuse_settings": "kotoba",
    "string_error": "kotoba",
    "top_level_error": "kotoba",
    "fal_error": "kotoba",
    "rate_limit_error": "kotoba",
    "reordered_final": "kotoba",
    "other_id": "kotoba",
    "revised_final": "palabra",
    "empty_final": "palabra",
    "empty_delta": "palabra",
    "early_translation": "palabra",
    "late_translation": "palabra",
    "missing_translation": "palabra",
    "duplicate_translation": "palabra",
    "reordered_translation": "palabra",
}
_KEYS_OF_ONE: Final[Mapping[str, Provider]] = {
    "client_id": "palabra",
    "client_secret": "palabra",
    "idle_ms": "palabra",
    "session_ttl_s": "palabra",
    "secret_ttl_s": "kotoba",
}
_KEYS_OF_ONE_MODE: Final[Mapping[str, Literal["echo", "text"]]] = {
    "segment_ms": "echo",
    "texts": "text",
}
_UNSENDABLE: Final = (range(1004, 1007), range(1015, 3000))
"""Close codes that no frame can carry (RFC 6455, section 7.4)."""

_Ms = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
_Length = Annotated[int, msgspec.Meta(ge=20, le=60_000)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class ScriptError(Exception):
    """The script is wrong; the text says where, and what is allowed."""


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment of `text` mode."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]
    ms: _Length
    """How much audio it takes."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that goes wrong; `FAULT_KEYS` says which key has a meaning for which kind."""

    kind: FaultKind
    session: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Only in the nth session since the start, from 1; 0: in each."""
    after_ms: _Ms = 0
    """After so much audio of the session."""
    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)] = 1011
    """Of the close frame."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    """Of the HTTP answer."""
    retry_after_s: _Seconds | None = None
    """Of the HTTP answer."""
    for_s: _Seconds = 0
    """How long every later session is refused as well."""
    error_code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "internal_error"
    """Of the error event."""
    language: str = ""
    """Only translations into this language; empty: into all."""
    delay_ms: _Ms = 2_000
    """Between a final and its translation."""


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
    session_ttl_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 3_600
    """A session that nobody has connected to is invalid after this."""
    secret_ttl_s: Annotated[int, msgspec.Meta(ge=1, le=7_200)] = 600
    """A client secret is invalid after this, unless its request says otherwise."""
    sessions_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Sessions at once, beyond which the next is refused; 0: no limit."""
    sessions_per_identity_max: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The same for one key or token; None: one at Palabra, no limit at Kotoba."""
    linger_s: _Seconds = 0
    """How long a session that ended without a close frame of its client keeps its place."""
    is_real_time: bool | None = None
    """Whether audio beyond real time plus 0.5 s is ignored; None: at Palabra only."""
    idle_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 10_000
    """A session without audio is closed after this; 0: never."""
    faults: tuple[Fault, ...] = ()


def parse_script(content: bytes, *, provider: Provider) -> Script:
    """Read a script.

    Args:
        content: TOML.
        provider: whose simulator it is for.

    Raises:
        ScriptError: it is no TOML, or has keys or values, or a combination of them, that mean
            nothing.
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
    except RecursionError:
        raise ScriptError("The script is nested too deeply.") from None
    except msgspec.ValidationError as error:
        raise ScriptError(f"{error}. docs/simulators.md lists all keys.") from None
    _check_keys(tables, script, provider)
    for n, fault in enumerate(script.faults):
        _check_fault(cast("dict[str, Any]", tables["faults"][n]), fault, n, provider)
    return script


def _check_keys(tables: Mapping[str, Any], script: Script, provider: Provider) -> None:
    if script.mode == "text" and not script.texts:
        raise ScriptError('`$.texts`: mode = "text" needs texts, each with `text` and `ms`.')
    for key, mode in _KEYS_OF_ONE_MODE.items():
        if key in tables and mode != script.mode:
            raise ScriptError(f'`$.{key}` means something with mode = "{mode}" only.')
    for key, of in _KEYS_OF_ONE.items():
        if key in tables and of != provider:
            raise ScriptError(f"`$.{key}` means something in a script for {of} only.")


def _check_fault(table: Mapping[str, Any], fault: Fault, n: int, provider: Provider) -> None:
    place = f'`$.faults[{n}]`, kind = "{fault.kind}"'
    if _KINDS_OF_ONE.get(fault.kind, provider) != provider:
        raise ScriptError(f"{place}: there is no such fault in a script for {provider}.")
    allowed = FAULT_KEYS.get(fault.kind, frozenset({"after_ms"})) | {"kind", "session"}
    for key in table:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise ScriptError(f"{place}: `{key}` means nothing to it. It has: {known}.")
    if fault.for_s and not fault.session:
        raise ScriptError(f"{place}: `for_s` means nothing without `session`: each is refused.")
    if any(fault.code in codes for codes in _UNSENDABLE):
        raise ScriptError(
            f"{place}: no close frame can carry the code {fault.code}. For a connection that ends"
            ' without one (1006), use kind = "reset".'
        )
