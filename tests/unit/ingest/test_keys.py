"""Whose key is it?"""

import hmac
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.keys import KeyRing

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


@given(keys=st.dictionaries(st.text(min_size=1), st.sampled_from(["acme", "bolt"]), max_size=8))
def test_every_key_of_the_ring_is_found(keys: dict[str, str]) -> None:
    """Whatever characters it is made of."""
    ring = KeyRing((tenant, key) for key, tenant in keys.items())

    assert {key: ring.find_tenant(key) for key in keys} == keys
