"""Palabra's session storage: the request for a session, its answer, and signed session tokens.

Pure: the caller brings the secret and the clock. Nothing needs to be stored about a session: see
`signed_tokens`.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from speechbus_wire.palabra import PalabraError
from speechbus_wire.signed_tokens import open_token, sign_payload

__all__ = [
    "Problem",
    "SessionClaims",
    "SessionRequest",
    "SessionToken",
    "decode_session",
    "decode_session_request",
    "encode_problem",
    "encode_session",
    "encode_session_request",
    "sign_token",
    "verify_token",
]

SUBSCRIBERS_MAX: Final = 10
"""Palabra's limit (providers.md 3.2)."""
TOKEN_CHARS_MAX: Final = 1_024
"""A token has some 300 characters; what is far longer is not looked at."""

_AUDIENCE: Final = "palabra"
"""Keeps the token from being taken where other tokens of the same secret are."""


class SessionRequest(msgspec.Struct, frozen=True):
    """What a session is asked to have; Palabra's fields that mean nothing here are ignored."""

    subscriber_count: Annotated[int, msgspec.Meta(ge=0, le=SUBSCRIBERS_MAX)] = 0


class _SessionBody(msgspec.Struct, frozen=True):
    data: SessionRequest


class SessionClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a session token says."""

    tenant: str
    session_id: str
    expires_at_s: int
    """Seconds since 1970."""
    role: Literal["publisher", "subscriber"] = "publisher"
    """Only publishers send audio."""


class SessionToken(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its owner gets it."""

    session_id: str
    publisher: str
    subscribers: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error of the HTTP side."""

    status: int
    title: str
    detail: str
    """What to do."""
    error_code: str
    instance: str
    """Path of the request, without its query."""


class _Payload(msgspec.Struct, frozen=True):
    aud: str
    sub: str
    sid: str
    role: Literal["publisher", "subscriber"]
    exp: int


class _SessionData(msgspec.Struct, frozen=True):
    publisher: str
    # The seed's program reads nothing but the token; a server may send no more.
    id: str = ""
    subscriber: tuple[str, ...] | None = None


class _SessionAnswer(msgspec.Struct, frozen=True):
    data: _SessionData


_answer_decoder: Final = msgspec.json.Decoder(_SessionAnswer)
_body_decoder: Final = msgspec.json.Decoder(_SessionBody)
_payload_decoder: Final = msgspec.json.Decoder(_Payload)


def decode_session_request(body: bytes) -> SessionRequest:
    """Read the body of `POST /session-storage/session`.

    Raises:
        PalabraError: no JSON, or not the right fields; the text says what is wrong and repeats
            nothing of the body.
    """
    try:
        return _body_decoder.decode(body).data
    except msgspec.ValidationError as error:
        # msgspec names types and fields here, never values.
        raise PalabraError(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise PalabraError("The body is no valid JSON.") from None


def encode_session(session: SessionToken) -> bytes:
    """Return the body of the 201 that answers it.

    The addresses of Palabra's speech-to-speech rooms are there, empty, for clients that insist on
    the fields.
    """
    data: dict[str, Any] = {
        "id": session.session_id,
        "publisher": session.publisher,
        "subscriber": session.subscribers,
        "webrtc_room_name": "",
        "webrtc_url": "",
        "ws_url": "",
        "ws_tts_url": "",
        "intent": "api",
    }
    return msgspec.json.encode({"ok": True, "data": data})


def encode_session_request(*, subscriber_count: int = 0) -> bytes:
    """Return the body of `POST /session-storage/session`, as the seed's program sends it."""
    data: dict[str, Any] = {
        "subscriber_count": subscriber_count,
        "publisher_count": 1,
        "publisher_can_subscribe": True,
    }
    return msgspec.json.encode({"data": data})


def decode_session(body: bytes) -> SessionToken:
    """Read the answer to a request for a session; its id is empty where the server gave none.

    Raises:
        PalabraError: no such answer; the text repeats nothing of it.
    """
    try:
        data = _answer_decoder.decode(body).data
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise PalabraError("not a valid session") from None
    return SessionToken(
        session_id=data.id, publisher=data.publisher, subscribers=data.subscriber or ()
    )


def encode_problem(problem: Problem) -> bytes:
    """Return the body of an HTTP error."""
    error: dict[str, Any] = {
        "type": "about:blank",
        "status": problem.status,
        "title": problem.title,
        "detail": problem.detail,
        "instance": problem.instance,
        "error_code": problem.error_code,
    }
    return msgspec.json.encode({"ok": False, "errors": [error]})


def sign_token(claims: SessionClaims, secret: bytes) -> str:
    """Return a token that `verify_token` takes with the same secret."""
    payload = _Payload(
        _AUDIENCE, claims.tenant, claims.session_id, claims.role, claims.expires_at_s
    )
    return sign_payload(msgspec.json.encode(payload), secret)


def verify_token(token: str, secret: bytes, *, now_s: float) -> SessionClaims | None:
    """Return what a token says; None: not signed with this secret for this use, or expired.

    Args:
        token: whatever a client sent.
        secret: what `sign_token` was given.
        now_s: seconds since 1970.
    """
    opened = open_token(token, secret, chars_max=TOKEN_CHARS_MAX)
    if opened is None:
        return None
    try:
        payload = _payload_decoder.decode(opened)
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
