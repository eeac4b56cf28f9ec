"""docs/nats.md against deploy/nats/users.conf."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "nats.md").read_text(encoding="utf-8")
USERS = (ROOT / "deploy" / "nats" / "users.conf").read_text(encoding="utf-8")


def test_the_page_tells_every_right_of_every_user() -> None:
    """Who wonders why a user may do something looks there."""
    declared = {
        (user.lower(), verb, re.sub(r"AUDIO_\d+", "AUDIO_<n>", subject))
        for user, block in re.findall(
            r"^(\w+)_RIGHTS: \{\n(.*?)^\}", USERS, re.MULTILINE | re.DOTALL
        )
        for verb, entries in re.findall(
            r"^  (publish|subscribe): \[(.*?)\]", block, re.MULTILINE | re.DOTALL
        )
        for subject in re.findall(r'"([^"]+)"', entries)
    }
    told = [
        (section.partition("\n")[0], verb, subject)
        for section in PAGE.split("\n### ")[1:]
        for verb, subject in re.findall(
            r"^\| (publish|subscribe) \| `(.+?)` \| .+ \|$", section, re.MULTILINE
        )
    ]

    assert sorted(told) == sorted(declared)


def test_every_shard_has_the_same_rights() -> None:
    """One that was forgotten would be found by the stream that falls into it."""
    shards = re.findall(r'"(\$JS\.API\.[A-Z.]+)\.AUDIO_(\d+)"', USERS)
    calls = {call for call, _ in shards}

    assert {number for _, number in shards} == {str(number) for number in range(16)}
    assert all(
        sorted(int(number) for name, number in shards if name == call)
        == sorted([*range(16)] * (len([1 for name, _ in shards if name == call]) // 16))
        for call in calls
    )


def test_the_page_tells_every_user() -> None:
    """Also those without a list of rights."""
    named = set(re.findall(r'\{ user: "([a-z]+)"', USERS))

    assert all(f"`{user}`" in PAGE for user in named)
    assert named == {
        *("ingest", "transcriber", "correlator", "translator"),
        *("bootstrap", "operator", "sys"),
    }
