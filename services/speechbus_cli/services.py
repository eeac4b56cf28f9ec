"""`speechbus ingest`, `transcriber`, …: one service each, as containers start it."""

import importlib
from collections.abc import Callable

import click

from speechbus_cli.errors import FailedError
from speechbus_cli.variables import VariablesCommand

__all__ = ["correlator", "ingest", "transcriber", "translator"]

_EXIT_CODES = """
Traces and metrics go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; docs/operations.md.

\b
Exit codes: 0 ended by a signal, streams handed over; 1 failed; 2 wrong settings, each is named.
"""


def _serve(service: str) -> int:
    try:
        module = importlib.import_module(f"speechbus_{service}.service")
    except ModuleNotFoundError as error:
        raise FailedError(
            f"The {service} cannot start: Python package {error.name} is missing; install"
            f" speechbus[{service}] (`make setup` in a checkout)."
        ) from None
    serve: Callable[[], int] = module.main
    return serve()


@click.command(
    cls=VariablesCommand,
    settings="speechbus_ingest.settings:Settings",
    prefix="SPEECHBUS_INGEST_",
    epilog=f"""\b
Example:
  SPEECHBUS_INGEST_API_KEYS=acme:KEY speechbus ingest
{_EXIT_CODES}""",
)
def ingest() -> int:
    """Run the doors: take streams from clients, show transcripts."""
    return _serve("ingest")


@click.command(
    cls=VariablesCommand,
    settings="speechbus_transcriber.settings:Settings",
    prefix="SPEECHBUS_TRANSCRIBER_",
    epilog=f"""\b
Example:
  SPEECHBUS_TRANSCRIBER_PROVIDERS=local speechbus transcriber
{_EXIT_CODES}""",
)
def transcriber() -> int:
    """Run a worker that transcribes streams.

    Start as many as you like: they share the streams and take over from each other.
    """
    return _serve("transcriber")


@click.command(
    cls=VariablesCommand,
    settings="speechbus_correlator.settings:Settings",
    prefix="SPEECHBUS_CORRELATOR_",
    epilog=f"""\b
Example:
  SPEECHBUS_CORRELATOR_NATS_URL=nats://nats.example:4222 speechbus correlator
{_EXIT_CODES}""",
)
def correlator() -> int:
    """Join finals and translations to captions.

    Start as many as you like: any of them can join anything.
    """
    return _serve("correlator")


@click.command(
    cls=VariablesCommand,
    settings="speechbus_translator.settings:Settings",
    prefix="SPEECHBUS_TRANSLATOR_",
    epilog=f"""\b
Example:
  SPEECHBUS_TRANSLATOR_LIBRETRANSLATE_URL=http://127.0.0.1:5000 speechbus translator
{_EXIT_CODES}""",
)
def translator() -> int:
    """Translate what providers do not.

    Start as many as you like: they share the finals. Without an engine for a pair of languages,
    captions say so.
    """
    return _serve("translator")
