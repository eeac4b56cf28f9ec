"""Kotoba's door against golden transcripts, in both directions."""

import json

import pytest

from speechbus_wire.kotoba import decode_server_message
from tests.support.door_transcript import FOLDER, Player, read_transcript

NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("name", NAMES)
def test_a_client_is_told_exactly_what_the_transcript_has(name: str) -> None:
    """Every field of every message, in order, and nothing more."""
    dialect, lines = read_transcript(name)
    player = Player(dialect)
    for line in lines:
        match line["dir"]:
            case "sent":
                player.send(line["text"])
            case "bus":
                player.take(line)
            case _:
                assert player.told.popleft() == line["text"]

    assert not player.told


@pytest.mark.parametrize("name", NAMES)
def test_our_own_client_understands_what_the_door_says(name: str) -> None:
    """The adapter for the vendor reads every message of the vendor's dialect."""
    dialect, lines = read_transcript(name)
    told = [line["text"] for line in lines if line["dir"] == "received"]
    unknown = [message for message in told if decode_server_message(json.dumps(message)) is None]

    assert dialect != "kotoba" or not unknown


def test_the_cases_that_every_protocol_needs_are_there() -> None:
    """A new one is written down before it is coded."""
    assert {
        "normal",
        "two_turns",
        "timestamps",
        "flush_at_end",
        "commit_in_silence",
        "error_unknown_message",
        "case_01_rewritten_tail",
        "case_08_turn_of_nothing",
        "case_16_openai_commits",
        "case_25_early_update",
        "openai_beta",
        "openai_general",
    } <= set(NAMES)
