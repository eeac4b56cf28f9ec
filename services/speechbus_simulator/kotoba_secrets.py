"""Kotoba's client secrets: the requests for one, their answers, and which are still good. Pure.

Nothing public tells the response (providers.md 1.3); it is that of OpenAI's endpoints of the same
names, whose form Kotoba follows.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from speechbus_simulator.kotoba_settings import fill_in
from speechbus_wire import kotoba as wire

__all__ = ["GA_PATH", "MINT_PATH", "ClientSecrets"]

MINT_PATH: Final = "/v1/realtime/transcription_sessions"
GA_PATH: Final = "/v1/realtime/client_secrets"
"""OpenAI's newer address."""
SECRETS_KEPT_MAX: Final = 1_000
"""The oldest are forgotten, and unknown then."""


class _Lifetime(msgspec.Struct, frozen=True):
    seconds: Annotated[int, msgspec.Meta(ge=10, le=7_200)]


class _Wishes(msgspec.Struct, frozen=True):
    expires_after: _Lifetime | None = None
    # OpenAI's beta form has the lifetime under this name, and an answer the time.
    expires_at: _Lifetime | None = None


class _SessionBody(wire.Session, frozen=True, kw_only=True):
    client_secret: _Wishes = _Wishes()


class _GaBody(msgspec.Struct, frozen=True):
    expires_after: _Lifetime | None = None
    session: dict[str, Any] = {}


_session_decoder: Final = msgspec.json.Decoder(_SessionBody)
_ga_decoder: Final = msgspec.json.Decoder(_GaBody)


class ClientSecrets:
    """Secrets that open one session each.

    Args:
        ttl_s: how long one is good if its request does not say.
        now_s: seconds since 1970.
        token: returns an unguessable text of a URL's letters.
    """

    def __init__(self, *, ttl_s: int, now_s: Callable[[], float], token: Callable[[], str]) -> None:
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._token = token
        self._expires_at_s: dict[str, float] = {}
        """By secret; 0: used."""

    def mint(self, path: str, body: bytes) -> dict[str, Any]:
        """Return the answer to a request for a secret.

        Args:
            path: `MINT_PATH` or `GA_PATH`.
            body: of the request; empty: nothing special.

        Raises:
            RequestError: the body is wrong.
        """
        try:
            return self._mint(path, body or b"{}")
        except msgspec.ValidationError as error:
            # msgspec names types and fields here, never values.
            raise wire.RequestError("invalid_parameters", str(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise wire.RequestError("invalid_json", "The body is no JSON object.") from None

    def use(self, secret: str) -> bool | None:
        """Use a secret up; False: it has expired or was used; None: it was never minted here."""
        expires_at_s = self._expires_at_s.get(secret)
        if expires_at_s is None:
            return None
        self._expires_at_s[secret] = 0.0
        return expires_at_s > self._now_s()

    def _mint(self, path: str, body: bytes) -> dict[str, Any]:
        if path == GA_PATH:
            wishes = _ga_decoder.decode(body)
            secret = self._keep(wishes.expires_after)
            session = {"type": "transcription", "object": "realtime.transcription_session"}
            session |= {"id": f"sess_{self._token()}"} | wishes.session
            return {**secret, "session": session}
        asked = fill_in(_session_decoder.decode(body))
        secret = self._keep(asked.client_secret.expires_after or asked.client_secret.expires_at)
        return {
            **msgspec.to_builtins(asked),
            "id": f"sess_{self._token()}",
            "expires_at": 0,
            "client_secret": secret,
        }

    def _keep(self, lifetime: _Lifetime | None) -> dict[str, Any]:
        seconds = self._ttl_s if lifetime is None else lifetime.seconds
        secret, expires_at_s = f"ek_{self._token()}", int(self._now_s()) + seconds
        self._expires_at_s[secret] = expires_at_s
        if len(self._expires_at_s) > SECRETS_KEPT_MAX:
            del self._expires_at_s[next(iter(self._expires_at_s))]
        return {"value": secret, "expires_at": expires_at_s}
