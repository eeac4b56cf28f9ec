"""The recordings of real speech that the demo plays."""

import shutil
import wave
from pathlib import Path

import pytest

from speechbus_cli.errors import FailedError
from speechbus_cli.speech import Recordings, fetch_recordings

pytest_plugins = ["tests.support.speech"]


@pytest.mark.speech
def test_five_sentences_come_with_their_words(recordings: Recordings) -> None:
    """The demo shows the true sentence beside what was heard."""
    sentences = [recording.transcript for recording in recordings.recordings]

    assert len(sentences) == 5
    assert sentences[3] == (
        "had he married a more amiable woman he might have been made still more respectable"
        " than he was"
    )
    assert "public domain" in recordings.reader
    for recording in recordings.recordings:
        with wave.open(str(recording.path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)


@pytest.mark.speech
def test_recordings_at_hand_need_no_network(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second demo starts at once, in a train too."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = recordings.recordings[0].path.parent
    shutil.copytree(folder, tmp_path / folder.name)

    again = fetch_recordings(tmp_path)

    assert [found.transcript for found in again.recordings] == [
        found.transcript for found in recordings.recordings
    ]


def test_a_download_that_fails_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a cache would be taken for a whole one by the next run."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")

    with pytest.raises(FailedError, match="check the network"):
        fetch_recordings(tmp_path)
    assert list(tmp_path.iterdir()) == []
