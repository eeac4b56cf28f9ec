"""Tokens that prove themselves: JSON Web Tokens (RFC 7519, HS256). Pure.

Nothing needs to be stored about a token, and any process with the secret can check it.
"""

import base64
import hmac
import re
from typing import Final

__all__ = ["open_token", "sign_payload"]

# Compared as text and never decoded, so that nobody can choose another algorithm.
_HEADER: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"  # {"alg":"HS256","typ":"JWT"}
_PART: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


def sign_payload(payload: bytes, secret: bytes) -> str:
    """Return a token that `open_token` takes with the same secret.

    Args:
        payload: JSON. Everybody who has the token can read it. It must name what the token is
            for, since all kinds of tokens have the same secret.
        secret: of this system.
    """
    signed = f"{_HEADER}.{_encode_part(payload)}"
    return f"{signed}.{_sign(signed, secret)}"


def open_token(token: str, secret: bytes, *, chars_max: int) -> bytes | None:
    """Return the payload of a token; None: not signed with this secret.

    Args:
        token: whatever a client sent; what is longer than `chars_max` is not looked at.
        secret: what `sign_payload` was given. Compared in constant time.
        chars_max: longest token that can be one.
    """
    signed, _, signature = token.rpartition(".")
    header, _, body = signed.partition(".")
    if len(token) > chars_max or header != _HEADER or _PART.match(body) is None:
        return None
    if not hmac.compare_digest(
        _sign(signed, secret).encode(), signature.encode(errors="surrogatepass")
    ):
        return None
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def _sign(signed: str, secret: bytes) -> str:
    return _encode_part(hmac.digest(secret, signed.encode(), "sha256"))


def _encode_part(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
