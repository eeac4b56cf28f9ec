"""`speechbus key new`: an API key that nobody else knows, and what the settings need of it."""

import hashlib
import secrets
from typing import Final

import click

from speechbus_cli.errors import ExitCode, SettingsMistakeError
from speechbus_cli.settings import API_KEYS
from speechbus_contracts import ContractError, parse_token

__all__ = ["key"]

KEY_BYTES: Final = 32
KEY_PREFIX: Final = "sb_"
"""Tells what was found, where one is found that should not be there."""


@click.group(short_help="Make API keys.")
def key() -> None:
    """Make API keys."""


@key.command(
    epilog=f"""\b
Example:
  speechbus key new acme
\b
Give the key to the client: it is shown once and stored nowhere. Put the entry among
{API_KEYS}, or as a line into the file that {API_KEYS}_FILE
names; ingest reads a changed file by itself. It lets nobody in who reads it.
"""
)
@click.argument("tenant")
def new(tenant: str) -> int:
    """Make a key for TENANT and print it with its entry."""
    try:
        parse_token(tenant)
    except ContractError:
        raise SettingsMistakeError(
            "A tenant's name is 1 to 64 letters, digits, dashes, underscores."
        ) from None
    made = f"{KEY_PREFIX}{secrets.token_urlsafe(KEY_BYTES)}"
    click.echo(f"key    {made}")
    click.echo(f"entry  {tenant}:sha256:{hashlib.sha256(made.encode()).hexdigest()}")
    return ExitCode.DONE
