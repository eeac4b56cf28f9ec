"""Client secrets of Kotoba's address: what is asked for, what is answered, and the secrets. Pure.

Kotoba's and OpenAI's beta `POST /v1/realtime/transcription_sessions`, and OpenAI's general
`POST /v1/realtime/client_secrets`. The caller brings the signing secret and the clock.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from speechbus_wire.kotoba import RequestError
from speechbus_wire.kotoba_door import build_default_session
from speechbus_wire.kotoba_openai import read_general_session
from speechbus_wire.kotoba_sessions import Asked, Dialect, read_session
from speechbus_wire.signed_tokens import open_token, sign_payload

__all__ = [
    "SESSION_BYTES_MAX",
    "TTL_S",
    "SecretClaims",
    "SecretRequest",
    "decode_client_secret_request",
    "decode_transcription_session_request",
    "encode_client_secret",
    "encode_transcription_session",
    "read_remembered_session",
    "sign_secret",
    "verify_secret",
]

TTL_S: Final = 600
"""When the request names none (providers.md 1.3)."""
SESSION_BYTES_MAX: Final = 2_048
"""Of the settings that a secret remembers: it must fit into one HTTP header."""
SECRET_CHARS_MAX: Final = 4_096
"""A secret without settings has some 300 characters; what is far longer is not looked at."""
_PREFIX: Final = "ek_"
"""As OpenAI's secrets begin; tells them from keys at a glance."""
_AUDIENCE: Final = "kotoba"
"""Keeps the secret from being taken where other tokens of the same signing secret are."""

_Seconds = Annotated[int, msgspec.Meta(ge=10, le=7_200)]


class SecretRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a secret is asked to be good for."""

    ttl_s: int
    asked: Asked
    remembered: str = ""
    """The settings as JSON, for a client that sends audio without an update; empty: none."""


class SecretClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a secret says."""

    tenant: str
    stream_id: str
    """Of the one stream it opens: a second one of this id is refused."""
    expires_at_s: int
    """Seconds since 1970."""
    dialect: Dialect = "kotoba"
    remembered: str = ""


class _Expiry(msgspec.Struct, frozen=True):
    seconds: _Seconds = TTL_S
    anchor: str = "created_at"


class _BetaSecret(msgspec.Struct, frozen=True):
    expires_at: _Expiry | None = None
    expires_after: _Expiry | None = None


class _SessionRequest(msgspec.Struct, frozen=True):
    client_secret: _BetaSecret | None = None


class _ClientSecretRequest(msgspec.Struct, frozen=True):
    expires_after: _Expiry | None = None
    session: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    aud: str
    sub: str
    sid: str
    exp: int
    dia: Dialect = "kotoba"
    set: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """As it is: no quotes to escape, so that its length is known."""


_session_request_decoder: Final = msgspec.json.Decoder(_SessionRequest)
_client_secret_request_decoder: Final = msgspec.json.Decoder(_ClientSecretRequest)
_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_payload_decoder: Final = msgspec.json.Decoder(_Payload)


def decode_transcription_session_request(
    body: bytes, dialect: Literal["kotoba", "beta"]
) -> SecretRequest:
    """Read the body of `POST /v1/realtime/transcription_sessions`; empty asks for nothing.

    Raises:
        RequestError: no JSON, or wrong fields; the text repeats nothing of the body.
    """
    body = body.strip() or b"{}"
    try:
        request = _session_request_decoder.decode(body)
        asked = read_session(body, dialect)
        fields = _fields_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _refuse(error) from None
    secret = request.client_secret or _BetaSecret()
    expiry = secret.expires_after or secret.expires_at or _Expiry()
    fields.pop("client_secret", None)
    return SecretRequest(
        ttl_s=expiry.seconds,
        asked=asked,
        remembered=_remember(msgspec.json.encode(fields) if fields else b""),
    )


def decode_client_secret_request(body: bytes) -> SecretRequest:
    """Read the body of `POST /v1/realtime/client_secrets`; empty asks for nothing.

    Raises:
        RequestError: no JSON, or wrong fields; the text repeats nothing of the body.
    """
    try:
        request = _client_secret_request_decoder.decode(body.strip() or b"{}")
        if isinstance(request.session, msgspec.UnsetType):
            asked, session = build_default_session("general"), b""
        else:
            session = bytes(request.session)
            asked = read_general_session(session)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _refuse(error) from None
    expiry = request.expires_after or _Expiry()
    return SecretRequest(ttl_s=expiry.seconds, asked=asked, remembered=_remember(session))


def _refuse(error: Exception) -> RequestError:
    if isinstance(error, msgspec.ValidationError):
        # msgspec names types and fields here, and values of tags only.
        return RequestError("invalid_parameters", str(error).partition(" '")[0])
    return RequestError("invalid_json", "The body is no JSON object.")


def _remember(session: bytes) -> str:
    if len(session) > SESSION_BYTES_MAX:
        raise RequestError(
            "invalid_parameters",
            f"A secret remembers settings of at most {SESSION_BYTES_MAX} bytes: send them over the"
            " socket instead.",
            param="session",
        )
    try:
        return session.decode()
    except UnicodeDecodeError:  # in a field that nobody has read
        raise RequestError("invalid_json", "The body is no JSON object.") from None


def read_remembered_session(remembered: str, dialect: Dialect) -> Asked:
    """Return the settings that a secret was made for.

    Args:
        remembered: the secret's; of the same shape as the dialect's.
        dialect: of the client that came with it.

    Raises:
        RequestError: they cannot be read.
    """
    if not remembered:
        return build_default_session(dialect)
    try:
        if dialect == "general":
            return read_general_session(remembered.encode())
        return read_session(remembered.encode(), dialect)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _refuse(error) from None


def encode_transcription_session(
    asked: Asked, *, session_id: str, secret: str, expires_at_s: int
) -> bytes:
    """Return the answer to `POST /v1/realtime/transcription_sessions`."""
    return msgspec.json.encode(
        {
            "id": session_id,
            **asked.echo,
            "expires_at": expires_at_s,
            "client_secret": {"value": secret, "expires_at": expires_at_s},
        }
    )


def encode_client_secret(asked: Asked, *, session_id: str, secret: str, expires_at_s: int) -> bytes:
    """Return the answer to `POST /v1/realtime/client_secrets`."""
    session: dict[str, Any] = {"id": session_id, **asked.echo, "expires_at": expires_at_s}
    return msgspec.json.encode({"value": secret, "expires_at": expires_at_s, "session": session})


def sign_secret(claims: SecretClaims, secret: bytes) -> str:
    """Return a client secret that `verify_secret` takes with the same signing secret."""
    payload = _Payload(
        _AUDIENCE,
        claims.tenant,
        claims.stream_id,
        claims.expires_at_s,
        claims.dialect,
        msgspec.Raw(claims.remembered.encode()) if claims.remembered else msgspec.UNSET,
    )
    return _PREFIX + sign_payload(msgspec.json.encode(payload), secret)


def verify_secret(token: str, secret: bytes) -> SecretClaims | None:
    """Return what a client secret says; None: not signed with this secret for this use.

    The caller sees to its expiry, which clients are told apart from a wrong secret.

    Args:
        token: whatever a client sent.
        secret: what `sign_secret` was given.
    """
    if not token.startswith(_PREFIX):
        return None
    opened = open_token(token.removeprefix(_PREFIX), secret, chars_max=SECRET_CHARS_MAX)
    if opened is None:
        return None
    try:
        payload = _payload_decoder.decode(opened)
    except (msgspec.DecodeError, UnicodeError):
        return None
    if payload.aud != _AUDIENCE:
        return None
    return SecretClaims(
        tenant=payload.sub,
        stream_id=payload.sid,
        expires_at_s=payload.exp,
        dialect=payload.dia,
        remembered="" if payload.set is msgspec.UNSET else bytes(payload.set).decode(),
    )
