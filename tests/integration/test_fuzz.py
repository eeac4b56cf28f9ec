"""A short run of `make fuzz`: what it would find within seconds is found here."""

import pytest

from benchmarks.fuzz.doors import fuzz_doors
from benchmarks.fuzz.parser_runs import run_target
from benchmarks.fuzz.parsers import TARGETS

SEED = "make test"
INPUTS = 60
ATTEMPTS = 50


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_garbage(name: str) -> None:
    """It refuses it by its own error, soon, and keeps nothing of it."""
    assert run_target(name, SEED, seconds=60, inputs_max=INPUTS) == INPUTS


@pytest.mark.nats
def test_doors_take_garbage_and_good_streams_notice_nothing() -> None:
    """Real sockets, a real ingest; nothing is logged as an error."""
    report = fuzz_doors(SEED, seconds=60, attempts_max=ATTEMPTS)

    assert report.problems == []
    assert report.attempts.total() == ATTEMPTS
    assert report.answers["101"] > ATTEMPTS / 4
    assert report.good_streams >= 1
