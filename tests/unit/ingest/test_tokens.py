"""Signed tokens: each kind is good at its own door only, for its time, under the right secret."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_ingest.viewer.tokens import ViewerClaims, sign_viewer_token, verify_viewer_token
from speechbus_wire.kotoba_secrets import SecretClaims, sign_secret, verify_secret
from speechbus_wire.palabra_sessions import SessionClaims, sign_token, verify_token
from speechbus_wire.signed_tokens import sign_payload

SECRET = b"thirty-two characters at the least"
FORMER = b"thirty-two characters of last year"
NOW_S = 1_000.0
EXPIRES_S = 1_060


def sign_palabra(secret: bytes = SECRET) -> str:
    return sign_token(SessionClaims(tenant="acme", session_id="s1", expires_at_s=EXPIRES_S), secret)


def sign_kotoba(secret: bytes = SECRET) -> str:
    return sign_secret(SecretClaims(tenant="acme", stream_id="s1", expires_at_s=EXPIRES_S), secret)


def sign_viewer(secret: bytes = SECRET) -> str:
    claims = ViewerClaims(tenant="acme", stream_id="s1", expires_at_s=EXPIRES_S)
    return sign_viewer_token(claims, secret)


SIGN: dict[str, Callable[[], str]] = {
    "palabra": sign_palabra,
    "kotoba": sign_kotoba,
    "viewer": sign_viewer,
}
OPEN: dict[str, Callable[[str], object | None]] = {
    "palabra": lambda token: verify_token(token, SECRET, now_s=NOW_S),
    "kotoba": lambda token: verify_secret(token, SECRET),
    "viewer": lambda token: verify_viewer_token(token, [SECRET], now_s=NOW_S),
}


@pytest.mark.parametrize("door", OPEN)
@pytest.mark.parametrize("kind", SIGN)
def test_a_token_is_good_at_its_own_door_only(kind: str, door: str) -> None:
    """All are signed with one secret: the audience tells them apart, with or without a prefix."""
    token = SIGN[kind]()
    found = [OPEN[door](spelt) for spelt in (token, f"ek_{token}", token.removeprefix("ek_"))]

    assert any(found) is (kind == door)


@pytest.mark.parametrize(("now_s", "is_good"), [(1_059.9, True), (1_060.0, False), (9e9, False)])
def test_a_token_expires_to_the_second(now_s: float, is_good: bool) -> None:  # noqa: FBT001
    """There is no leeway, and no `nbf`: a clock that is behind takes it as much longer."""
    assert (verify_token(sign_palabra(), SECRET, now_s=now_s) is not None) is is_good
    assert (verify_viewer_token(sign_viewer(), [SECRET], now_s=now_s) is not None) is is_good


def test_tokens_of_the_former_secret_are_taken_and_none_are_signed_with_it() -> None:
    """Rotation: nobody who holds a token has to come again."""
    secrets = TokenSecrets(SECRET, FORMER)
    assert verify_viewer_token(sign_viewer(FORMER), secrets.taken, now_s=NOW_S) is not None
    assert secrets.current == SECRET

    secrets.replace(SECRET, None)
    assert verify_viewer_token(sign_viewer(FORMER), secrets.taken, now_s=NOW_S) is None


def encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("door", OPEN)
@pytest.mark.parametrize("algorithm", ["none", "None", "HS512", "RS256", "", "HS256 "])
def test_nobody_chooses_another_algorithm(door: str, algorithm: str) -> None:
    """The header is compared, never obeyed; `HS256` spelt otherwise is none of ours either."""
    payload = {"aud": door, "sub": "acme", "sid": "s1", "exp": EXPIRES_S, "role": "publisher"}
    signed = f"{encode({'alg': algorithm, 'typ': 'JWT'})}.{encode(payload)}"
    digest = hmac.digest(SECRET, signed.encode(), "sha256")
    signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    for token in (f"{signed}.", f"{signed}.{signature}"):
        assert OPEN[door](token) is None
        assert OPEN[door](f"ek_{token}") is None


AUDIENCES: dict[str, str] = {
    kind: json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["aud"]
    for kind, token in ((kind, sign()) for kind, sign in SIGN.items())
}


@pytest.mark.parametrize("door", OPEN)
def test_the_audience_alone_keeps_a_token_out(door: str) -> None:
    """Also one that has every field of every kind: what a later kind will be like is not known."""
    assert len(set(AUDIENCES.values())) == len(AUDIENCES)
    for kind in SIGN:
        payload = {"aud": AUDIENCES[kind], "sub": "acme", "sid": "s1", "exp": EXPIRES_S}
        more = {"role": "publisher", "dia": "kotoba"}
        token = sign_payload(json.dumps({**payload, **more}).encode(), SECRET)
        found = OPEN[door](token) or OPEN[door](f"ek_{token}")

        assert (found is not None) is (kind == door)


@given(
    kind=st.sampled_from(sorted(SIGN)),
    at=st.integers(0, 400),
    character=st.characters(codec="ascii", exclude_characters=""),
)
def test_a_changed_character_makes_it_nobodys(kind: str, at: int, character: str) -> None:
    """Also the last one, whose lowest bits base64 does not use."""
    token = SIGN[kind]()
    at %= len(token)
    changed = token[:at] + character + token[at + 1 :]

    if changed != token:
        assert OPEN[kind](changed) is None


@given(st.text() | st.binary().map(lambda octets: octets.decode("latin-1")))
def test_whatever_comes_is_no_token(text: str) -> None:
    """And breaks nothing."""
    assert [check(text) for check in OPEN.values()] == [None, None, None]


def test_a_signature_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the token ends."""
    compared: list[int] = []
    compare = hmac.compare_digest

    def count(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    for door in OPEN.values():
        door(sign_palabra()[:-1] + "!")
    assert compared
    assert set(compared) == {len(base64.urlsafe_b64encode(hashlib.sha256().digest()).rstrip(b"="))}
