"""docs/settings.md against the settings structs."""

import re
from pathlib import Path

import msgspec
import pytest

from speechbus_cli import settings as cli_settings
from speechbus_cli.bootstrap import BOOTSTRAP_PREFIX, BootstrapSettings
from speechbus_cli.main import main
from speechbus_correlator.settings import SETTINGS_PREFIX as CORRELATOR_PREFIX
from speechbus_correlator.settings import Settings as CorrelatorSettings
from speechbus_ingest.settings import SETTINGS_PREFIX as INGEST_PREFIX
from speechbus_ingest.settings import Settings as IngestSettings
from speechbus_runtime.settings import SettingDescription, describe_settings
from speechbus_runtime.telemetry_settings import TELEMETRY_PREFIX, TelemetrySettings
from speechbus_transcriber.settings import SETTINGS_PREFIX as TRANSCRIBER_PREFIX
from speechbus_transcriber.settings import Settings as TranscriberSettings
from speechbus_translator.settings import SETTINGS_PREFIX as TRANSLATOR_PREFIX
from speechbus_translator.settings import Settings as TranslatorSettings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
KINDS: tuple[tuple[type[msgspec.Struct], str], ...] = (
    (IngestSettings, INGEST_PREFIX),
    (TranscriberSettings, TRANSCRIBER_PREFIX),
    (CorrelatorSettings, CORRELATOR_PREFIX),
    (TranslatorSettings, TRANSLATOR_PREFIX),
    (TelemetrySettings, TELEMETRY_PREFIX),
    (BootstrapSettings, BOOTSTRAP_PREFIX),
)


def spell_default(described: SettingDescription) -> str:
    """The default as the page writes it."""
    if described.default is None:
        return "required"
    return f"`{described.default}`" if described.default else "none"


def test_every_variable_is_told_with_its_default_its_values_and_its_meaning() -> None:
    """Operators set what the page says; a variable it leaves out does not exist for them."""
    told = re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \| (.*?) \| (.+) \|$", PAGE, re.MULTILINE)
    declared = [
        (described.variable, spell_default(described), described.expected, described.summary)
        for kind, prefix in KINDS
        for described in describe_settings(kind, prefix)
    ]

    assert told == declared


def spell_in_help(default: str) -> str:
    """The page's default as `--help` writes it."""
    return "" if default == "none" else f"[{default.strip('`')}]"


@pytest.mark.parametrize(
    "command", ["ingest", "transcriber", "correlator", "translator", "bootstrap"]
)
def test_help_says_the_same(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence that is cut in its middle helps nobody."""
    assert main([command, "--help"]) == 0

    shown = "".join(capsys.readouterr().out.split())  # lines are folded
    section = PAGE.split(f"## {command.capitalize()}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \| .*? \| (.+) \|$", section, re.MULTILINE)
    missing = [
        variable
        for variable, default, meaning in rows
        if "".join(f"{variable}{meaning}{spell_in_help(default)}".split()) not in shown
    ]
    assert (len(rows) > 0, missing) == (True, [])


def test_every_variable_of_the_command_line_is_told() -> None:
    """They have no settings struct of their own."""
    told = re.findall(r"^\| `(SPEECHBUS_\w+)` \| `--", PAGE, re.MULTILINE)

    assert sorted(told) == sorted(
        [cli_settings.INGEST_URL, cli_settings.KEY, cli_settings.NATS_URL]
    )
