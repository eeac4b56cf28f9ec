"""Recordings of real speech as a fixture; `pytest_plugins = ["tests.support.speech"]` brings it."""

from pathlib import Path

import pytest

from speechbus_cli.speech import Recording, Recordings, fetch_recordings

CACHE = Path(__file__).parents[2] / ".cache" / "speech"
"""Where `make speech` puts them."""


@pytest.fixture(scope="session")
def recordings() -> Recordings:
    """The five sentences; downloaded when `make speech` has not been run."""
    return fetch_recordings(CACHE)


@pytest.fixture(scope="session")
def amiable(recordings: Recordings) -> Recording:
    """The sentence that PocketSphinx hears best: "had he married a more amiable woman"."""
    return next(found for found in recordings.recordings if found.path.stem.endswith("0920"))
