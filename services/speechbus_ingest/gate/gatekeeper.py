"""What every request passes before a door sees it: where it is from, whether it may come in."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from math import ceil
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechbus_ingest.doors.credentials import find_credential, find_realtime_credential
from speechbus_ingest.gate.addresses import Proxies
from speechbus_ingest.gate.failures import AuthenticationFailures
from speechbus_ingest.gate.origins import Origins
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_wire.kotoba import REALTIME_PATH, encode_error_body
from speechbus_wire.kotoba_secrets import verify_secret
from speechbus_wire.palabra import SESSION_PATH, STREAM_PATH
from speechbus_wire.palabra_sessions import Problem, encode_problem
from speechbus_wire.signed_tokens import open_token

__all__ = ["COUNTED", "Gatekeeper", "Refusal"]

UNAUTHORIZED: Final = 401
TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
COUNTED: Final = frozenset({UNAUTHORIZED, 403, TOO_MANY})
"""Refusals of a key or token, or for a limit."""
FULL_RETRY_S: Final = 5
TOKEN_CHARS_MAX: Final = 4_096
"""Of the longest kind of token, a client secret with settings."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the gate's own, in the form of the door that was asked for."""

    status: int
    body: bytes
    retry_after_s: int | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What to send along."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        return headers


class Gatekeeper:
    """Decides about requests before any door does, at the cost of some microseconds.

    Where somebody has failed to authenticate too often, whoever comes from the same address is let
    in only with a key or a signed token: good clients behind the same proxy notice nothing, the
    others are sent away before anything is made for them.

    Args:
        keys: tenants and their keys.
        secrets: that tokens are signed with.
        failures: counts, by address.
        proxies: whose word on addresses is taken.
        origins: of pages that may come in.
        is_rebindable: what needs no key is shown, on an address that only this machine reaches: a
            foreign name that points here must not open it to a foreign page.
        now_s: the event loop's clock.
        count_refusal: told the status of each refusal among `COUNTED`, the doors' included.
    """

    def __init__(
        self,
        keys: KeyRing,
        secrets: TokenSecrets,
        *,
        failures: AuthenticationFailures,
        proxies: Proxies,
        origins: Origins,
        is_rebindable: bool,
        now_s: Callable[[], float],
        count_refusal: Callable[[int], None],
    ) -> None:
        self._keys = keys
        self._secrets = secrets
        self._failures = failures
        self._proxies = proxies
        self._origins = origins
        self._is_rebindable = is_rebindable
        self._now_s = now_s
        self._count_refusal = count_refusal

    def guard(self, app: ASGIApp) -> ASGIApp:
        """Return `app` behind the gate; upgrades pass it before (`protocols`)."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            refusal = self.check(scope)
            if refusal is None:
                with suppress(ClientDisconnect):  # who goes amid its request breaks nothing
                    await app(scope, receive, self._watch(scope, send))
                return
            start = {"type": "http.response.start", "status": refusal.status}
            await send({**start, "headers": refusal.headers})
            await send({"type": "http.response.body", "body": refusal.body})

        return guarded

    def check(self, scope: Scope, *, is_upgrade: bool = False) -> Refusal | None:
        """Return why a request is refused, before any door sees it; None: it is not.

        Args:
            scope: of the request; its client becomes who is behind the proxies.
            is_upgrade: to a WebSocket: all of them need credentials.
        """
        refusal = self._find_refusal(scope, is_upgrade=is_upgrade)
        if refusal is not None and refusal.status in COUNTED:
            self._count_refusal(refusal.status)
        return refusal

    def _find_refusal(self, scope: Scope, *, is_upgrade: bool) -> Refusal | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        peer, port = scope["client"] or ("", 0)
        client = self._proxies.find_client(peer, headers)
        is_secure = scope["scheme"] in {"https", "wss"} or self._proxies.is_secure(peer, headers)
        scope["client"] = (client, port)
        origin = _find_header(headers, b"origin")
        host = _find_header(headers, b"host") or ""
        path: str = scope["path"]
        if self._is_rebindable and not self._origins.may_be_called(host):
            return _refuse(path, 421, "wrong_host", "Misdirected Request", _WRONG_HOST)
        if not self._origins.allows(origin, host=host, is_secure=is_secure):
            return _refuse(path, 403, "origin_refused", "Forbidden", _WRONG_ORIGIN)
        retry_after_s = self._failures.retry_after_s(client, now_s=self._now_s())
        if retry_after_s > 0 and self._is_stranger(scope, needs_credential=is_upgrade):
            return _refuse(
                path,
                TOO_MANY,
                "too_many_failures",
                "Too Many Requests",
                _TOO_MANY_FAILURES,
                retry_after_s=ceil(retry_after_s),
            )
        return None

    def refuse_for_want_of_room(self, scope: Scope) -> Refusal:
        """Return the answer to an upgrade when there are as many connections as can be."""
        return _refuse(
            scope["path"],
            UNAVAILABLE,
            "too_many_connections",
            "Service Unavailable",
            "Too many connections: try again later.",
            retry_after_s=FULL_RETRY_S,
        )

    def note_refusal(self, scope: Scope, status: int) -> None:
        """Learn how a door has answered somebody, whatever protocol it speaks."""
        if status in COUNTED:
            self._count_refusal(status)
        if status == UNAUTHORIZED:
            self._failures.count(scope["client"][0], now_s=self._now_s())

    def _watch(self, scope: Scope, send: Send) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.note_refusal(scope, message["status"])
            await send(message)

        return watched

    def _is_stranger(self, scope: Scope, *, needs_credential: bool) -> bool:
        """Tell whether a request shows credentials, and none of them is known."""
        shown = list(_find_credentials(HTTPConnection(scope)))
        if not shown:
            return needs_credential
        return not any(self._knows(credential) for credential in shown)

    def _knows(self, credential: str) -> bool:
        if self._keys.find_tenant(credential) is not None:
            return True
        # Whether it is still good, and for this door, is the door's to say.
        return any(
            open_token(credential, secret, chars_max=TOKEN_CHARS_MAX) is not None
            or verify_secret(credential, secret) is not None
            for secret in self._secrets.taken
        )


_WRONG_HOST: Final = (
    "Call this server by its address or as localhost, or name this host in"
    " SPEECHBUS_INGEST_ALLOWED_ORIGINS."
)
_WRONG_ORIGIN: Final = (
    "Pages of this origin are not let in: add it to SPEECHBUS_INGEST_ALLOWED_ORIGINS."
)
_TOO_MANY_FAILURES: Final = (
    "Too many requests with wrong keys came from this address: wait, then send a good one."
)


def _find_credentials(connection: HTTPConnection) -> Iterator[str]:
    if credential := find_credential(connection):
        yield credential
    if realtime := find_realtime_credential(connection):
        yield realtime.value
    if credential := connection.headers.get("clientsecret"):
        yield credential


def _find_header(headers: list[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return None


def _refuse(
    path: str, status: int, code: str, title: str, detail: str, *, retry_after_s: int | None = None
) -> Refusal:
    if path.startswith((SESSION_PATH, STREAM_PATH)):
        problem = Problem(status=status, title=title, detail=detail, error_code=code, instance=path)
        body = encode_problem(problem)
    elif path.startswith(REALTIME_PATH) or path.endswith(REALTIME_PATH):
        code = "rate_limit_error" if status == TOO_MANY else code  # the vendor's only one
        body = msgspec.json.encode(encode_error_body(code, detail))
    else:
        error: dict[str, Any] = {"type": "error", "code": code, "message": detail}
        body = msgspec.json.encode(error)
    return Refusal(status=status, body=body, retry_after_s=retry_after_s)
