"""Palabra's session tokens, signed. Pure: the caller brings the secret and the clock.

A token is a JSON Web Token (RFC 7519, HS256): a stranger's is refused before anything is asked of
the bus, and any process with the secret can check it.
"""

import base64
import hmac
import re
from typing import Final, Literal

import msgspec

__all__ = ["SessionClaims", "sign_token", "verify_token"]

TOKEN_CHARS_MAX: Final = 1_024
"""A token has some 300 characters; what is far longer is not looked at."""

_AUDIENCE: Final = "palabra"
"""Keeps the token from being taken where other tokens of the same secret are."""
# Compared as text and never decoded, so that nobody can choose another algorithm.
_HEADER: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"  # {"alg":"HS256","typ":"JWT"}
_PART: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


class SessionClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a session token says."""

    tenant: str
    session_id: str
    expires_at_s: int
    """Seconds since 1970."""
    role: Literal["publisher", "subscriber"] = "publisher"
    """Only publishers send audio."""


class _Payload(msgspec.Struct, frozen=True):
    aud: str
    sub: str
    sid: str
    role: Literal["publisher", "subscriber"]
    exp: int


_payload_decoder: Final = msgspec.json.Decoder(_Payload)


def sign_token(claims: SessionClaims, secret: bytes) -> str:
    """Return a token that `verify_token` takes with the same secret."""
    payload = _Payload(
        _AUDIENCE, claims.tenant, claims.session_id, claims.role, claims.expires_at_s
    )
    signed = f"{_HEADER}.{_encode_part(msgspec.json.encode(payload))}"
    return f"{signed}.{_sign(signed, secret)}"


def verify_token(token: str, secret: bytes, *, now_s: float) -> SessionClaims | None:
    """Return what a token says; None: not signed with this secret for this use, or expired.

    Args:
        token: whatever a client sent.
        secret: what `sign_token` was given.
        now_s: seconds since 1970.
    """
    signed, _, signature = token.rpartition(".")
    header, _, body = signed.partition(".")
    if len(token) > TOKEN_CHARS_MAX or header != _HEADER or _PART.match(body) is None:
        return None
    if not hmac.compare_digest(
        _sign(signed, secret).encode(), signature.encode(errors="surrogatepass")
    ):
        return None
    try:
        payload = _payload_decoder.decode(_decode_part(body))
    except (msgspec.DecodeError, ValueError):
        return None
    if payload.aud != _AUDIENCE or payload.exp <= now_s:
        return None
    return SessionClaims(
        tenant=payload.sub,
        session_id=payload.sid,
        expires_at_s=payload.exp,
        role=payload.role,
    )


def _sign(signed: str, secret: bytes) -> str:
    return _encode_part(hmac.digest(secret, signed.encode(), "sha256"))


def _encode_part(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _decode_part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
