import json
import os
import pty
import signal
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechbus_contracts import encode_event
from tests.support.command_line import build_environment, run_speechbus, start_speechbus
from tests.support.encoded import SAMPLE_RATES_HZ, build_tone, encode
from tests.support.stand_in_door import (
    KEY,
    StandInDoor,
    build_final,
    build_gap,
    build_partial,
    build_translation,
)

SAMPLES = list(range(1, 4_801))
PCM = struct.pack(f"<{len(SAMPLES)}h", *SAMPLES)
BY_LOCAL = b"transcribed by local\n"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """0.3 s, every sample another value."""
    return write_wav(tmp_path / "talk.wav", PCM)


@pytest.fixture
def door() -> Iterator[StandInDoor]:
    with StandInDoor(
        during=[build_partial("good")], after=[build_final("good morning")]
    ) as running:
        yield running


def write_wav(path: Path, pcm: bytes) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(pcm)
    return path


def test_a_pipe_gets_finals_with_times_and_no_partials(door: StandInDoor, recording: Path) -> None:
    """`speechbus transcribe talk.wav > talk.txt` must be a transcript."""
    done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(recording))

    assert (done.returncode, done.stderr) == (0, BY_LOCAL)
    assert done.stdout == b"[0:00.0 - 0:00.8] good morning\n"


def test_silence_is_told_from_a_failure(recording: Path) -> None:
    """Nothing printed and exit code 0 leave the person wondering whether anything ran."""
    with StandInDoor() as door:
        done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(recording))

    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"no speech was recognized\n"


def test_every_sample_and_every_option_reaches_the_server(
    door: StandInDoor, recording: Path
) -> None:
    """What the person typed is what the stream is."""
    done = run_speechbus(
        *["transcribe", "--language", "en", "--translate", "es, de", "--providers", "echo"],
        str(recording),
        SPEECHBUS_URL=door.url,
        SPEECHBUS_KEY=KEY,
    )

    assert done.returncode == 0
    assert done.stderr == (
        b"transcribed by local\n"
        b"note: no translation came, nor the word that there is none: does a translator run?"
        b" (`speechbus dev --translate`, or `speechbus translator --help`)\n"
    )
    (conversation,) = door.conversations
    assert conversation.audio == PCM
    assert conversation.controls == ["end"]
    assert conversation.hello == {
        "type": "hello",
        "format": "pcm_s16le",
        "sample_rate_hz": 16_000,
        "language": "en",
        "target_languages": ["es", "de"],
        "providers": ["echo"],
        "resumable": True,
    }


def test_a_translation_that_came_needs_no_note(recording: Path) -> None:
    """A note that nobody translates would stand beside a translation."""
    with StandInDoor(
        after=[build_final("good morning"), build_translation("guten Morgen")]
    ) as door:
        done = run_speechbus(
            "transcribe", "--translate", "de", "--url", door.url, "--key", KEY, str(recording)
        )

    assert done.stdout == b"[0:00.0 - 0:00.8] good morning\n    de: guten Morgen\n"
    assert (done.returncode, done.stderr) == (0, BY_LOCAL)


def test_a_container_reaches_the_server_as_its_samples(door: StandInDoor, tmp_path: Path) -> None:
    """At its own rate; the server needs no decoder for it."""
    path = tmp_path / "talk.flac"
    path.write_bytes(encode("flac", PCM, sample_rate_hz=16_000))
    done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(path))

    assert (done.returncode, done.stderr) == (0, BY_LOCAL)
    assert door.conversations[0].audio == PCM


def test_a_broken_file_is_transcribed_up_to_there_and_fails_the_command(
    door: StandInDoor, tmp_path: Path
) -> None:
    """A script must not take half a talk for the talk."""
    path = tmp_path / "talk.ogg"
    rate = SAMPLE_RATES_HZ["ogg"]
    path.write_bytes(encode("ogg", build_tone(rate, 0.5), sample_rate_hz=rate) + b"OggT" * 9)
    done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(path))

    assert done.returncode == 1
    assert done.stdout == b"[0:00.0 - 0:00.8] good morning\n"
    assert done.stderr.decode() == (
        f"speechbus: {path} was transcribed up to where it cannot be decoded:"
        " it is damaged, or of another format than was said.\n"
    )


def test_json_lines_are_the_servers_messages_unchanged(door: StandInDoor, recording: Path) -> None:
    """Programs that read them rely on the contract, also for types this command does not know."""
    done = run_speechbus("transcribe", "--json", "--url", door.url, "--key", KEY, str(recording))

    lines = done.stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines] == [
        "ready",
        "something.new",
        "segment.partial",
        "segment.final",
        "stream.closed",
    ]
    assert lines[3] == encode_event(build_final("good morning"))


def test_files_are_streamed_one_after_the_other(
    door: StandInDoor, recording: Path, tmp_path: Path
) -> None:
    """Each is a stream of its own, in the order given."""
    second = write_wav(tmp_path / "second.wav", PCM[:3_200])

    done = run_speechbus(
        "transcribe", "--fast", "--url", door.url, "--key", KEY, str(recording), str(second)
    )

    assert done.returncode == 0
    assert [len(c.audio) for c in door.conversations] == [len(PCM), 3_200]
    assert done.stdout.decode().splitlines()[::2] == [str(recording), str(second)]


def test_a_file_that_is_bad_does_not_keep_the_others(door: StandInDoor, recording: Path) -> None:
    """Each is said at once, the good ones are transcribed, and a script learns of the bad ones."""
    empty = recording.with_name("empty.wav")
    empty.touch()
    missing = recording.with_name("missing.wav")
    done = run_speechbus(
        *["transcribe", "--url", door.url, "--key", KEY],
        *[str(missing), str(recording), str(empty)],
    )

    assert (done.returncode, done.stdout) == (1, b"[0:00.0 - 0:00.8] good morning\n")
    assert done.stderr.decode().splitlines() == [
        f"speechbus: {missing}: No such file or directory.",
        f"speechbus: {empty} is empty.",
        "transcribed by local",
    ]


def test_a_stream_that_fails_does_not_keep_the_others(recording: Path) -> None:
    """Each failure is said, and the exit code is that of a failure."""
    with StandInDoor(reason="source_lost") as door:
        done = run_speechbus(
            "transcribe", "--url", door.url, "--key", KEY, str(recording), str(recording)
        )

    assert (done.returncode, len(door.conversations)) == (1, 2)
    assert done.stderr.count(b"closed early (source_lost)") == 2


def test_an_empty_standard_input_fails(door: StandInDoor) -> None:
    """The program before the pipe has failed, most likely: that is no silence."""
    done = run_speechbus("transcribe", "-", "--url", door.url, "--key", KEY)

    assert done.returncode == 1
    assert b"speechbus: Nothing came on standard input" in done.stderr


def test_standard_input_is_raw_pcm(door: StandInDoor) -> None:
    """A microphone program can be piped in."""
    done = run_speechbus("transcribe", "-", "--url", door.url, "--key", KEY, input_bytes=PCM)

    assert done.returncode == 0
    assert door.conversations[0].audio == PCM


def test_a_gap_fails_the_command(recording: Path) -> None:
    """A script must notice that a part was not transcribed."""
    with StandInDoor(after=[build_gap(), build_final("the rest")]) as door:
        done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(recording))

    assert done.returncode == 1
    assert b"[0:01.0 - 0:02.5] (not transcribed: lag)" in done.stdout


def test_a_stream_closed_early_fails_the_command(recording: Path) -> None:
    """A transcript of the first half must not pass for the whole."""
    with StandInDoor(after=[build_final("the start")], reason="source_lost") as door:
        done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(recording))

    assert done.returncode == 1
    assert b"the start" in done.stdout
    assert b"closed early (source_lost)" in done.stderr


def test_a_wrong_key_ends_with_4_and_says_what_to_do(door: StandInDoor, recording: Path) -> None:
    """One sentence, no traceback, and never the key."""
    done = run_speechbus("transcribe", "--url", door.url, "--key", "s3cr3t", str(recording))

    assert done.returncode == 4
    assert b"--key or SPEECHBUS_KEY" in done.stderr
    assert (done.stderr.count(b"\n"), b"s3cr3t" in done.stderr) == (1, False)


def test_white_space_around_a_key_is_none_of_it(door: StandInDoor, recording: Path) -> None:
    """It comes along from files, above all from those of other systems."""
    done = run_speechbus(
        "transcribe", "--url", door.url, str(recording), SPEECHBUS_KEY=f"{KEY}\r\n"
    )

    assert (done.returncode, done.stderr) == (0, BY_LOCAL)


def test_a_key_that_can_be_none_is_the_arguments_fault(door: StandInDoor, recording: Path) -> None:
    """The server was said not to run, and it does."""
    done = run_speechbus("transcribe", "--url", door.url, str(recording), SPEECHBUS_KEY="s3c\rr3t")

    assert done.returncode == 2
    assert b"The key has a character that no key has" in done.stderr
    assert b"r3t" not in done.stderr


def test_nobody_there_ends_with_3_and_says_what_to_start(recording: Path) -> None:
    """The most likely mistake of a newcomer."""
    done = run_speechbus("transcribe", "--url", "ws://127.0.0.1:9", str(recording))

    assert done.returncode == 3
    assert b"speechbus dev" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_refused_stream_shows_the_servers_reason(recording: Path) -> None:
    """The error message comes before the close and must not be lost behind it."""
    with StandInDoor(refusal="hello.sample_rate") as door:
        done = run_speechbus("transcribe", "--url", door.url, "--key", KEY, str(recording))

    assert done.returncode == 1
    assert done.stderr == (
        b"speechbus: The server refused (hello.sample_rate): Send another one.\n"
    )


@pytest.mark.parametrize("url", ["ftp://x", "ws://", "ws://me:secret@host"])
def test_a_wrong_url_ends_with_2(recording: Path, url: str) -> None:
    """Nothing was tried; and a password in a URL would end up in logs."""
    done = run_speechbus("transcribe", "--url", url, str(recording))

    assert (done.returncode, b"secret" in done.stderr) == (2, False)


def test_ctrl_c_ends_the_audio_and_still_shows_the_last_words(
    door: StandInDoor, tmp_path: Path
) -> None:
    """What was said so far is worth having."""
    long = write_wav(tmp_path / "long.wav", bytes(32_000 * 600))
    with start_speechbus("transcribe", "--url", door.url, "--key", KEY, str(long)) as process:
        assert door.heard_audio.wait(30)

        process.send_signal(signal.SIGINT)

        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, BY_LOCAL)
    assert out == b"[0:00.0 - 0:00.8] good morning\n"
    assert door.conversations[0].controls == ["end"]


def test_a_terminal_shows_the_partial_and_replaces_it(door: StandInDoor, recording: Path) -> None:
    """People see words while they are spoken; what stays behind are the finals."""
    output = read_terminal("transcribe", "--url", door.url, "--key", KEY, str(recording))

    partial, final = output.index("… good"), output.index("[0:00.0 - 0:00.8] good morning")
    assert partial < final
    # The line was erased between the two.
    assert "\x1b[2K" in output[partial:final]
    assert "0:00.3 of 0:00.3 sent (100%)" in output


def test_a_reader_that_leaves_is_no_error(door: StandInDoor, recording: Path) -> None:
    """`speechbus transcribe ... | head -1` is a normal thing to type."""
    reading, writing = os.pipe()
    os.close(reading)
    arguments = ("transcribe", "--json", "--url", door.url, "--key", KEY, str(recording))
    with start_speechbus(*arguments, output=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, b"")


def read_terminal(*arguments: str) -> str:
    """Run the command on a terminal of its own; return all it wrote."""
    ours, theirs = pty.openpty()
    process = start_speechbus(
        *arguments,
        output=theirs,
        errors=theirs,
        environment=build_environment(TERM="xterm-256color"),
    )
    os.close(theirs)
    chunks: list[bytes] = []
    try:
        while chunk := os.read(ours, 65_536):
            chunks.append(chunk)
    except OSError:  # Linux says so when the last writer has closed the terminal
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    assert process.stdout is None
    return b"".join(chunks).decode()
