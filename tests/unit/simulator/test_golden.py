"""The simulators against golden transcripts, in both directions."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from speechbus_simulator.script import FAULT_KINDS
from speechbus_wire import kotoba, palabra
from tests.support.simulator_golden import TRANSCRIPTS, play, read_transcript

BEGINNINGS = {"refuse", "refuse_token", "refuse_minting", "unanswered"}
"""Faults before the first message; tests/integration/test_simulators.py has them."""
READERS: dict[str, Callable[[str], object]] = {
    "kotoba": kotoba.decode_server_message,
    "palabra": palabra.decode_server_message,
}


def name(path: Path) -> str:
    return f"{path.parts[-3]}-{path.stem}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=name)
def test_a_conversation_goes_as_it_went(path: Path) -> None:
    """Every message, its time, and nothing else."""
    header, lines = read_transcript(path)

    assert play(header, lines) == lines


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=name)
def test_clients_can_read_what_is_said(path: Path) -> None:
    """Garbage aside."""
    header, lines = read_transcript(path)
    for line in lines:
        if line["dir"] == "received" and "text" in line:
            READERS[header["provider"]](msgspec.json.encode(line["text"]).decode())


def test_every_fault_of_a_session_has_a_transcript() -> None:
    """Integrators see there what they get."""
    scripts = [read_transcript(path)[0]["script"] for path in TRANSCRIPTS]

    missing = {
        kind for kind in FAULT_KINDS if not any(f'kind = "{kind}"' in script for script in scripts)
    }
    assert missing == BEGINNINGS


def test_the_usual_conversations_have_a_transcript() -> None:
    """Of both providers."""
    usual = {"normal", "two_utterances", "silence", "text_with_latency", "drop_inside_utterance"}
    for provider in READERS:
        stems = {path.stem for path in TRANSCRIPTS if path.parts[-3] == provider}
        assert usual <= stems
