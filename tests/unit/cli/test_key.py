"""`speechbus key new`."""

import pytest

from speechbus_cli.errors import SettingsMistakeError
from speechbus_cli.main import main
from speechbus_cli.settings import read_first_key
from speechbus_ingest.keys import KeyRing


def make(capsys: pytest.CaptureFixture[str], tenant: str) -> dict[str, str]:
    """The key and its entry."""
    assert main(["key", "new", tenant]) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split() for line in lines)


def test_a_new_key_opens_what_its_entry_says(capsys: pytest.CaptureFixture[str]) -> None:
    """And no two are the same; the entry holds nothing of the key."""
    one, other = (make(capsys, "acme") for _ in range(2))
    tenant, _, hashed = one["entry"].partition(":")

    ring = KeyRing([(tenant, hashed)])
    assert ring.find_tenant(one["key"]) == "acme"
    assert ring.find_tenant(other["key"]) is None
    assert len(one["key"]) == 46  # "sb_", and 256 bits
    assert one["key"] not in one["entry"]


def test_a_tenant_that_no_subject_can_hold_is_refused() -> None:
    """Its entry would stop ingest."""
    assert main(["key", "new", "a.b"]) == 2


def test_commands_that_need_a_key_pass_hashed_ones_over() -> None:
    """`speechbus dev` could do nothing with one."""
    entries = f"acme:sha256:{'a' * 64}\nacme:usable"

    assert read_first_key({"SPEECHBUS_INGEST_API_KEYS": entries}) == ("acme", "usable")
    with pytest.raises(SettingsMistakeError, match="hashed keys only"):
        read_first_key({"SPEECHBUS_INGEST_API_KEYS": entries.splitlines()[0]})
