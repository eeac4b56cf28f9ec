"""Settings from environment variables: read once, typed, every mistake reported at once."""

import ast
import difflib
import inspect as source_inspect
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, TypeVar

import msgspec
from msgspec import inspect

from speechbus_runtime.secret import Secret
from speechbus_runtime.setting_values import (
    SettingValueError,
    describe_value,
    expected_value,
    parse_value,
)

__all__ = [
    "Secret",
    "SettingDescription",
    "SettingMistake",
    "SettingsError",
    "describe_settings",
    "read_settings",
]

T = TypeVar("T", bound=msgspec.Struct)

FILE_SUFFIX: Final = "_FILE"
FILE_BYTES_MAX: Final = 65_536
"""Keys and certificates are far smaller; a path to a device would never end."""
_CLUSTER_VARIABLE: Final = re.compile(
    r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
"""What Kubernetes adds to every container for a Service whose name is our prefix
(kubernetes.io/docs/concepts/services-networking/service, "Environment variables")."""


class SettingMistake(msgspec.Struct, frozen=True):
    """What is wrong with a variable, and what to do."""

    variable: str
    """Empty: `problem` is a whole sentence, of several variables or with its remedy."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.variable} {self.problem}; {self.remedy}" if self.variable else self.problem


class SettingsError(Exception):
    """The environment is wrong; a person must change it before a start can work.

    The text has one line for each mistake and quotes no value.

    Attributes:
        mistakes: all of them, in the order of the fields.
    """

    def __init__(self, mistakes: tuple[SettingMistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class SettingDescription(msgspec.Struct, frozen=True):
    """What a help text says about one variable.

    Attributes:
        default: as it would be written; None if the variable is required.
        expected: the values it takes, in words.
        summary: the first paragraph of the field's docstring on one line, or "".
    """

    variable: str
    default: str | None
    expected: str
    summary: str


class _Field(msgspec.Struct, frozen=True):
    name: str
    variable: str
    kind: inspect.Type
    is_required: bool


def read_settings(kind: type[T], *, prefix: str, environ: Mapping[str, str] | None = None) -> T:
    """Build a settings struct from the environment.

    Field `sessions_max` with prefix `SPEECHBUS_TRANSCRIBER_` comes from
    `SPEECHBUS_TRANSCRIBER_SESSIONS_MAX`, or from the content of the file that
    `SPEECHBUS_TRANSCRIBER_SESSIONS_MAX_FILE` names. An empty variable counts as not set (compose
    files pass unset ones that way), an empty file is a mistake. A field annotated with
    `msgspec.Meta(extra={"variable": "ACME_API_KEY"})` has that variable instead.

    Field types: str, int, float, bool, Literal, `Secret`, each also `| None`; a tuple of them or
    of `tuple[str, X]` pairs, written `a,b` or `a:1,b:2`; `dict[str, X]`, written `a:1,b:2`.
    Bounds of `msgspec.Meta` hold.

    Args:
        kind: frozen keyword-only struct; its `__post_init__` may raise ValueError for what no
            single field can check. Its message has a line for each mistake that says what to do,
            names variables by their field (`LISTEN_PORT`), and must not quote secrets.
        prefix: ends with "_"; all other variables that start with it are mistakes.
        environ: os.environ if not given.

    Raises:
        SettingsError: with all mistakes together.
        TypeError: `kind` is no such struct (a mistake in the code).
    """
    variables = os.environ if environ is None else environ
    fields = _fields(kind, prefix)
    values: dict[str, object] = {}
    mistakes: list[SettingMistake] = []
    for field in fields:
        try:
            text = _text_of(field, variables)
            if text is not None:
                value = parse_value(text, field.kind)
                if isinstance(value, Secret):
                    value = Secret(text, path=_file_of(field, variables))
                values[field.name] = value
            elif field.is_required:
                mistakes.append(_value_mistake(kind, field, "is required and not set"))
        except _MistakeError as error:
            mistakes.append(error.mistake)
        except SettingValueError as error:
            mistakes.append(_value_mistake(kind, field, str(error)))
    mistakes.extend(_unknown_variables(fields, prefix, variables))
    if mistakes:
        raise SettingsError(tuple(mistakes))
    try:
        return kind(**values)
    except ValueError as error:
        lines = _spell_variables(str(error), fields).splitlines()
        raise SettingsError(tuple(SettingMistake("", line, "") for line in lines)) from None


class _MistakeError(Exception):
    def __init__(self, variable: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.mistake = SettingMistake(variable, problem, remedy)


def _fields(kind: type[msgspec.Struct], prefix: str) -> tuple[_Field, ...]:
    if not kind.__struct_config__.frozen:
        raise TypeError(f"{kind.__name__} must be a frozen struct")
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = tuple(
        _Field(field.name, _variable(field, prefix), field.type, field.required)
        for field in info.fields
    )
    names = [f"{field.variable}{suffix}" for field in fields for suffix in ("", FILE_SUFFIX)]
    if len(set(names)) < len(names):
        raise TypeError(f"two fields of {kind.__name__} share a variable")
    for field in fields:
        expected_value(field.kind)  # An impossible type shows at the first start, set or not.
    return fields


def _variable(field: inspect.Field, prefix: str) -> str:
    match field.type:
        case inspect.Metadata(extra={"variable": str() as variable}):
            return variable
        case _:
            return f"{prefix}{field.name.upper()}"


def _text_of(field: _Field, variables: Mapping[str, str]) -> str | None:
    """Return the text of one setting, or None if it is not set."""
    file_variable = f"{field.variable}{FILE_SUFFIX}"
    text = variables.get(field.variable, "").strip()
    path = variables.get(file_variable, "").strip()
    if text and path:
        raise _MistakeError(field.variable, f"and {file_variable} are both set", "keep one of them")
    return _file_text(file_variable, path) if path else text or None


def _file_of(field: _Field, variables: Mapping[str, str]) -> str:
    return variables.get(f"{field.variable}{FILE_SUFFIX}", "").strip()


def _file_text(variable: str, path: str) -> str:
    remedy = "write the path of a readable text file"
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        problem = f"names a file that cannot be read ({type(error).__name__})"
        # No cause: its text holds the path, and a secret may stand where the path should.
        raise _MistakeError(variable, problem, remedy) from None
    if len(content) > FILE_BYTES_MAX:
        raise _MistakeError(variable, f"names a file of more than {FILE_BYTES_MAX} bytes", remedy)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise _MistakeError(variable, "names a file that is not UTF-8 text", remedy) from None
    if not text:
        raise _MistakeError(variable, "names an empty file", "fill it, or unset the variable")
    return text


def _value_mistake(kind: type[msgspec.Struct], field: _Field, problem: str) -> SettingMistake:
    summary = _summaries(kind).get(field.name)
    meaning = f" ({summary})" if summary else ""
    return SettingMistake(field.variable, problem, f"write {expected_value(field.kind)}{meaning}")


def _spell_variables(text: str, fields: tuple[_Field, ...]) -> str:
    """Return a text in which each field's name in capitals has become its variable."""
    variables = {field.name.upper(): field.variable for field in fields}
    return re.sub(r"\w+", lambda word: variables.get(word[0], word[0]), text)


def _unknown_variables(
    fields: tuple[_Field, ...], prefix: str, variables: Mapping[str, str]
) -> Iterator[SettingMistake]:
    known = {f"{field.variable}{suffix}" for field in fields for suffix in ("", FILE_SUFFIX)}
    for variable in sorted(variables):
        if not variable.startswith(prefix) or variable in known:
            continue
        if _CLUSTER_VARIABLE.fullmatch(variable.removeprefix(prefix)):
            continue
        similar = difflib.get_close_matches(variable, sorted(known), n=1, cutoff=0.8)
        remedy = f"did you mean {similar[0]}?" if similar else "remove it"
        yield SettingMistake(variable, "is not a setting", remedy)


def describe_settings(
    kind: type[msgspec.Struct], prefix: str, *, summaries: Mapping[str, str] | None = None
) -> Iterator[SettingDescription]:
    """Yield what a help text needs, in the order of the fields.

    Args:
        kind: as for `read_settings`.
        prefix: likewise.
        summaries: by field name; they go before the docstrings in the source, which may be
            missing from an installation.

    Raises:
        TypeError: `kind` is not a settings struct (a mistake in the code).
    """
    lines = {**_summaries(kind), **(summaries or {})}
    infos = msgspec.structs.fields(kind)
    for field, info in zip(_fields(kind, prefix), infos, strict=True):
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        yield SettingDescription(
            variable=field.variable,
            default=None if field.is_required else describe_value(default),
            expected=expected_value(field.kind),
            summary=lines.get(field.name, ""),
        )


@cache
def _summaries(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """Return the first docstring paragraph of each field, bases first."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        if ancestor.__module__.startswith("msgspec") or ancestor is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(source_inspect.getsource(ancestor)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0]
        if isinstance(body, ast.ClassDef):
            found.update(_field_docstrings(body))
    return found


def _field_docstrings(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, docstring in zip(body.body, body.body[1:], strict=False):
        match field, docstring:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                yield name, " ".join(text.strip().partition("\n\n")[0].split())
            case _:
                pass
