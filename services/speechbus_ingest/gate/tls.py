"""TLS of the one port: the certificate, and the one that follows it."""

import ssl
from pathlib import Path

__all__ = ["Certificate", "CertificateError"]


class CertificateError(Exception):
    """Certificate or key cannot be used; the text says why and what to do."""


class Certificate:
    """A certificate chain and its key, in PEM files that may be replaced while they are in use.

    Args:
        certificate_path: the chain, the server's own certificate first.
        key_path: its private key, without a password.

    Raises:
        CertificateError: they cannot be used.
    """

    def __init__(self, certificate_path: str, key_path: str) -> None:
        self._paths = (Path(certificate_path), Path(key_path))
        self._seen = self._stamp()
        self.context = self._load()
        """Of the listener; what came first is in it, and each handshake is shown what came last."""
        self._newest = self.context
        self.context.sni_callback = self._show_newest

    def reload(self) -> bool:
        """Take a renewed certificate for connections from now on; tell whether there was one.

        Raises:
            CertificateError: what is there cannot be used; the former one stays in use.
        """
        seen = self._stamp()
        if seen == self._seen:
            return False
        # A context of its own: in the one that is in use, a handshake could meet a new certificate
        # with the old key, and half a pair that was written meanwhile would stay.
        self._newest = self._load()
        self._seen = seen
        return True

    def _show_newest(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        # Called at each handshake, also where a client names no server.
        connection.context = self._newest

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or getattr(error, "reason", None) or "unreadable"
            raise CertificateError(
                f"TLS: {certificate} and {key} are no certificate and its key ({why}): set"
                " SPEECHBUS_INGEST_TLS_CERTIFICATE_PATH and SPEECHBUS_INGEST_TLS_KEY_PATH"
            ) from None
        return context

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp_of, self._paths))


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
