"""Settings of a connection to NATS; the base of every service's."""

import msgspec

from speechbus_runtime.bus_login import BusLogin
from speechbus_runtime.secret import Secret

__all__ = ["BusSettings"]


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a service reaches NATS; the base of all settings."""

    nats_url: str = "nats://127.0.0.1:4222"
    """NATS server, or several separated by commas; `tls://` for those with TLS."""
    nats_user: str = ""
    """User at NATS; empty: none, or the one in the URL."""
    nats_password: Secret | None = None
    """Its password. A file is read again for each connection: a new one needs no new start."""
    nats_ca: str = ""
    """Path of the authority's certificate (PEM) that the server's must be of; nothing is then sent
    without TLS. Empty: the system's authorities."""
    nats_cert: str = ""
    """Path of a certificate to show to the server (PEM), where it asks for one."""
    nats_key: str = ""
    """Path of that certificate's key."""

    @property
    def nats_login(self) -> BusLogin:
        """What a connection shows, and wants to see."""
        return BusLogin(
            user=self.nats_user,
            password=self.nats_password,
            ca=self.nats_ca,
            cert=self.nats_cert,
            key=self.nats_key,
        )

    def __post_init__(self) -> None:
        """Check what spans fields and files.

        Raises:
            ValueError: with a line for each mistake.
        """
        if mistakes := "\n".join(self.nats_login.find_mistakes()):
            raise ValueError(mistakes)
