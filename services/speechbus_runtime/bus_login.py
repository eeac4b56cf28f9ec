"""Who we are to NATS, and how we know that it is NATS: user, password, TLS."""

import re
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client

from speechbus_runtime.secret import Secret

__all__ = [
    "NO_LOGIN",
    "BusClient",
    "BusLogin",
    "BusRefusedError",
    "is_refusal",
]

_USER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that can be part of an inbox."""
_REFUSALS: Final = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "user authentication",
    "account authentication",
    "the server offers no tls",  # ours, of a greeting
)
"""How the server begins its word for a user that it does not know, or not any more. `Authentication
Timeout` is none: the machine is busy."""


class BusRefusedError(Exception):
    """NATS does not let us in, or is not who it should be: a person must act. The text says how."""


class BusLogin(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection shows, and what it wants to see."""

    user: str = ""
    """Empty: the one in the URL, or none."""
    password: Secret | None = None
    ca: str = ""
    """File of the authority that the server's certificate must be of; empty: the system's."""
    cert: str = ""
    """File of our own certificate; empty: none is shown."""
    key: str = ""

    @property
    def wants_tls(self) -> bool:
        """Whether nothing may be said in clear, whatever the URL says."""
        return bool(self.ca or self.cert)

    def find_mistakes(self) -> Iterator[str]:
        """Yield what is wrong, by the settings' names."""
        if bool(self.user) != bool(self.password):
            yield "NATS_USER and NATS_PASSWORD come together"
        if self.user and _USER.fullmatch(self.user) is None:
            yield "NATS_USER has other characters than A-Z a-z 0-9 _ -, or more than 64"
        if bool(self.cert) != bool(self.key):
            yield "NATS_CERT and NATS_KEY come together"
            return
        try:
            if self.wants_tls:
                self.build_tls()
        except (OSError, ValueError) as error:  # what ssl raises is an OSError
            yield (
                "NATS_CA, NATS_CERT and NATS_KEY name readable files in PEM form, the key without a"
                f" passphrase ({type(error).__name__})"
            )

    def build_tls(self) -> ssl.SSLContext:
        """Return what connections that use TLS are made by."""
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            # With a password, since OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.cert, self.key, password="")
        return context

    def build_options(self, url: str, *, service: str) -> dict[str, Any]:
        """Return what `Client.connect` takes.

        Args:
            url: one or several comma-separated `nats://[user:password@]host:port`.
            service: names inboxes where there is no user.
        """
        servers = [part.strip() for part in url.split(",")]
        options: dict[str, Any] = {"servers": servers}
        if self.wants_tls:  # else nats-py trusts the system's authorities, where TLS is used
            options["tls"] = self.build_tls()
        if self.user and self.password is not None:
            password = self.password
            # Read for each connection: a new password needs no new start.
            options |= {"user": self.user, "password": password.reveal_current}
        else:
            # Of the first: servers that are learned from it come without any.
            first = urlsplit(servers[0])
            if first.password:
                options |= {"user": first.username, "password": first.password}
            else:
                options["token"] = first.username
        return options | {"inbox_prefix": f"_INBOX_{self._inbox_name(options, service)}"}

    def explain_refusal(self, url: str) -> str:
        """Return what to do when no server at `url` lets us in; names no password."""
        who = f"the user {self.user}" if self.user else "this user"
        servers = (part.strip().rpartition("//")[2].rpartition("@")[2] for part in url.split(","))
        return (
            f"NATS at {', '.join(servers)} refuses {who}, or is not of the expected authority:"
            " correct NATS_USER and NATS_PASSWORD, or NATS_CA (NATS_CERT and NATS_KEY where the"
            " server asks for a certificate)"
        )

    def _inbox_name(self, options: dict[str, Any], service: str) -> str:
        """Rights on inboxes are by user; without users, one for each service keeps them apart."""
        user = options.get("user") or ""
        return user if _USER.fullmatch(user) else service


NO_LOGIN: Final = BusLogin()


class BusClient(Client):
    """nats-py's client, which says nothing in clear where TLS is wanted.

    The server's greeting comes in clear and says whether there will be TLS: whoever is in between
    could take that out, and read the password that follows.
    """

    def __init__(self, *, wants_tls: bool = False) -> None:
        """Prepare.

        Args:
            wants_tls: at all servers; else at those with `tls://`.
        """
        super().__init__()
        self._wants_tls = wants_tls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 (nats-py's)
        assert self._current_server is not None
        wants_tls = self._wants_tls or self._current_server.uri.scheme == "tls"
        if initial_connection and wants_tls and not info.get("tls_required"):
            raise nats.errors.Error("nats: the server offers no TLS")
        await super()._process_info(info, initial_connection)


def is_refusal(error: Exception) -> bool:
    """Tell whether trying again changes nothing: the wrong user, or the wrong server."""
    if isinstance(error, ssl.SSLError):
        return "CERTIFICATE" in (error.reason or "")  # theirs, or ours in their eyes
    text = str(error).lower().removeprefix("nats: ").strip("' ")
    return text.startswith(_REFUSALS)
