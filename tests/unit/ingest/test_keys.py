"""Whose key is it?"""

import hashlib
import hmac
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.keys import HASH_PREFIX, AmbiguousKeyError, KeyRing, UnreadableHashError

RING = KeyRing([("acme", "one"), ("acme", "two"), ("bolt", "schlüssel-€-𝄞"), ("void", "")])


@pytest.mark.parametrize(
    ("key", "tenant"),
    [
        ("one", "acme"),
        ("two", "acme"),
        ("schlüssel-€-𝄞", "bolt"),
        ("One", None),
        ("one ", None),
        ("on", None),
        ("schlussel", None),
        ("one\0", None),
        ("\ud800", None),
    ],
)
def test_a_key_finds_its_tenant(key: str, tenant: str | None) -> None:
    """Exactly that key: no prefix, no other case; half a surrogate pair is nobody's, no crash."""
    assert RING.find_tenant(key) == tenant


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_nobodys_even_if_a_tenant_has_an_empty_one(key: str | None) -> None:
    """A slip in the settings must not open the door to everybody."""
    assert RING.find_tenant(key) is None


@pytest.mark.parametrize("key", ["one", "schlüssel-€-𝄞", "wrong", "a" * 10_000])
def test_every_key_is_looked_at_whichever_it_is(key: str) -> None:
    """The time of an answer says neither which key was near nor where it stands."""
    with mock.patch.object(hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
        RING.find_tenant(key)

    assert compare.call_count == 4
    assert {len(value) for call in compare.call_args_list for value in call.args} == {32}


PLAIN_KEYS = st.text(min_size=1).filter(lambda key: not key.startswith(HASH_PREFIX))


@given(keys=st.dictionaries(PLAIN_KEYS, st.sampled_from(["acme", "bolt"]), max_size=8))
def test_every_key_of_the_ring_is_found(keys: dict[str, str]) -> None:
    """Whatever characters it is made of."""
    ring = KeyRing((tenant, key) for key, tenant in keys.items())

    assert {key: ring.find_tenant(key) for key in keys} == keys


# --- hashed keys ---------------------------------------------------------------------------------


def hash_key(key: str) -> str:
    """An entry as `speechbus key new` writes it."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def test_a_hashed_key_is_found_and_its_hash_is_none() -> None:
    """Whoever reads the settings cannot come in with what stands there."""
    ring = KeyRing([("acme", hash_key("one")), ("bolt", "two")])

    assert ring.find_tenant("one") == "acme"
    assert ring.find_tenant("two") == "bolt"
    assert ring.find_tenant(hash_key("one")) is None
    assert ring.find_tenant(hash_key("one").removeprefix("sha256:")) is None


@pytest.mark.parametrize(
    "entry",
    ["sha256:", "sha256:abc", hash_key("one").upper().replace("SHA", "sha"), hash_key("one") + "0"],
)
def test_half_a_hash_is_a_mistake(entry: str) -> None:
    """Taken for a plain key it would be one that somebody could read."""
    with pytest.raises(UnreadableHashError):
        KeyRing([("acme", entry)])


def test_keys_are_replaced_all_or_not() -> None:
    """A rotation with a slip in it must not lock everybody out."""
    ring = KeyRing([("acme", "old")])
    with pytest.raises(UnreadableHashError):
        ring.replace([("acme", "new"), ("bolt", "sha256:")])
    assert ring.find_tenant("old") == "acme"

    ring.replace([("acme", "new")])
    assert (ring.find_tenant("old"), ring.find_tenant("new")) == (None, "acme")


@pytest.mark.parametrize("again", ["one", hash_key("one")])
def test_a_key_belongs_to_one_tenant(again: str) -> None:
    """Else one of them would read, and pay for, the other's streams."""
    ring = KeyRing([("acme", "one"), ("acme", again)])  # the same one's may stand there twice

    with pytest.raises(AmbiguousKeyError, match="two tenants have the same key"):
        ring.replace([("acme", "one"), ("bolt", again)])
    assert ring.find_tenant("one") == "acme"
