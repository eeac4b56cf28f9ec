"""Log lines on stderr: one JSON object each, or a line for people; nothing private in them."""

import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, cast

import msgspec

from speechbus_runtime.redaction import REDACTED, loggable_fields, scrub_text

__all__ = ["JsonFormatter", "LogLevel", "PrettyFormatter", "configure_logs"]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

TRACEBACK_CHARS_MAX: Final = 16_384
"""A recursion error prints 1,000 frames without it; the end is kept, there the reason stands."""
_OURS: Final = "speechbus_"
_OWN_HANDLERS: Final = (
    "uvicorn",
    "uvicorn.access",
    "uvicorn.asgi",
    "uvicorn.error",
    "faststream",
    "faststream.access.nats",
)
"""Loggers to which their libraries attach handlers of their own, past ours."""
_URL_LOGGERS: Final = ("httpcore", "httpx", "nats", "websockets")
"""Loggers that would print URLs, headers or messages below WARNING."""
_RECORD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "asctime",
    "color_message",  # uvicorn's message again, with terminal colours
    "message",
    "taskName",  # a standard field from Python 3.12
}
_FIXED_FIELDS: Final = frozenset({"ts", "level", "service", "logger", "event", "traceback"})


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object.

    Fields: `ts` (UTC, ISO 8601, milliseconds), `level`, `service`, `logger`, `event` (the
    message), the `extra` fields (one that has the name of a fixed field gets the prefix `extra_`),
    and `traceback` if there is one.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields: dict[str, object] = {
            "ts": _timestamp(record),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "event": _event(record),
        }
        for name, value in _extra_fields(record):
            fields[f"extra_{name}" if name in _FIXED_FIELDS else name] = value
        stack = _traceback(record)
        if stack:
            fields["traceback"] = stack
        return msgspec.json.encode(fields).decode()


class PrettyFormatter(logging.Formatter):
    """Writes a record for a person: time, level, service, event, fields; a traceback below."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, or several when there is a traceback."""
        words = [_timestamp(record)[11:23], f"{record.levelname:<7}", self._service, _event(record)]
        for name, value in _extra_fields(record):
            shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            words.append(
                f"{name}={shown!r}" if " " in shown or "\n" in shown else f"{name}={shown}"
            )
        stack = _traceback(record)
        return " ".join(words) + (f"\n{stack}" if stack else "")


class _ThirdPartyFilter(logging.Filter):
    """Drops what other libraries log below WARNING, whatever level they set for themselves.

    uvicorn prints each request's path with its query string at INFO, where clients put tokens;
    websockets prints headers and messages at DEBUG; httpx prints URLs at INFO.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.startswith(_OURS)


_THIRD_PARTY: Final = _ThirdPartyFilter()
"""One object, so that configuring twice adds it once."""


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the stderr of the moment; drops a record that cannot be written.

    logging's own way would print the record with its arguments, unredacted, to the same place.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def configure_logs(*, service: str, level: str = "INFO", json_lines: bool) -> None:
    """Send all logs of this process to stderr; once, before anything else starts.

    Own loggers (`speechbus_*`) log from `level` on, all others from WARNING on. A library that
    brings handlers of its own still prints those in its own form: start uvicorn with
    `log_config=None, access_log=False`, and give FastStream's broker a `logger`.

    Args:
        service: the `service` field of each line.
        level: a `LogLevel`.
        json_lines: JSON for machines; otherwise lines for people.

    Raises:
        ValueError: there is no such level.
    """
    formatter = JsonFormatter(service) if json_lines else PrettyFormatter(service)
    handler = _StderrHandler()
    handler.setFormatter(formatter)
    handler.addFilter(_THIRD_PARTY)
    root = logging.getLogger()
    root.setLevel(level)
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    for name in (*_OWN_HANDLERS, *_URL_LOGGERS):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        # Stays when a library configures its logger later; uvicorn's own configuration removes
        # handlers and sets levels, but no filters.
        logger.addFilter(_THIRD_PARTY)
    logging.captureWarnings(capture=True)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _event(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Another library's arguments do not fit its message.
        message = str(record.msg)
    return scrub_text(message.strip())


def _extra_fields(record: logging.LogRecord) -> Iterable[tuple[str, object]]:
    extra: Mapping[str, object] = {
        name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS
    }
    return loggable_fields(extra).items()


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    for error in _chain(record.exc_info[1]):
        # Python's own, of `int(…)` and `d[…]`: they quote what they got, which may be speech.
        if type(error) in {KeyError, ValueError} and (told := str(error)):
            name = type(error).__name__
            text = text.replace(f"{name}: {told}", f"{name}: {REDACTED}")
    return scrub_text(text[-TRACEBACK_CHARS_MAX:], chars_max=TRACEBACK_CHARS_MAX)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield all errors that a traceback shows."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", one).exceptions
