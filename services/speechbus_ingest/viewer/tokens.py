"""Viewer tokens: good for reading one stream, for a while. Pure."""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from speechbus_wire.signed_tokens import open_token, sign_payload

__all__ = [
    "TTL_S",
    "TTL_S_MAX",
    "ViewerClaims",
    "ViewerTokenRequest",
    "sign_viewer_token",
    "verify_viewer_token",
]

TTL_S: Final = 3_600
"""When the request names none."""
TTL_S_MAX: Final = 86_400
"""A stream is kept as long by default."""
TOKEN_CHARS_MAX: Final = 1_024
"""A token has some 300 characters; what is far longer is not looked at."""
_AUDIENCE: Final = "viewer"
"""Keeps the token from being taken where other tokens of the same secret are."""


class ViewerTokenRequest(msgspec.Struct, frozen=True):
    """The body of a request for a token; all of it may be left out."""

    ttl_s: Annotated[int, msgspec.Meta(ge=10, le=TTL_S_MAX)] = TTL_S


class ViewerClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a viewer token says."""

    tenant: str
    stream_id: str
    expires_at_s: int
    """Seconds since 1970."""


class _Payload(msgspec.Struct, frozen=True):
    aud: str
    sub: str
    sid: str
    exp: int


_payload_decoder: Final = msgspec.json.Decoder(_Payload)


def sign_viewer_token(claims: ViewerClaims, secret: bytes) -> str:
    """Return a token that `verify_viewer_token` takes with the same secret."""
    payload = _Payload(_AUDIENCE, claims.tenant, claims.stream_id, claims.expires_at_s)
    return sign_payload(msgspec.json.encode(payload), secret)


def verify_viewer_token(
    token: str, secrets: Iterable[bytes], *, now_s: float
) -> ViewerClaims | None:
    """Return what a token says; None: not signed with one of these for this use, or expired.

    Args:
        token: whatever a client sent.
        secrets: what `sign_viewer_token` may have been given.
        now_s: seconds since 1970.
    """
    for secret in secrets:
        opened = open_token(token, secret, chars_max=TOKEN_CHARS_MAX)
        if opened is None:
            continue
        try:
            payload = _payload_decoder.decode(opened)
        except (msgspec.DecodeError, UnicodeError):
            return None
        if payload.aud != _AUDIENCE or payload.exp <= now_s:
            return None
        return ViewerClaims(tenant=payload.sub, stream_id=payload.sid, expires_at_s=payload.exp)
    return None
