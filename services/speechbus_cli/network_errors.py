"""Network errors in people's words."""

import socket
import ssl

from websockets.exceptions import InvalidMessage

__all__ = ["describe_network_error"]


def describe_network_error(error: Exception, *, patience_s: float) -> str:
    """Return a few words for a sentence about why a connection could not be made.

    The errors' own texts are not used: they name numbers, source lines and sometimes what the
    server sent.

    Args:
        error: what connecting raised.
        patience_s: how long an answer was waited for.
    """
    match error:
        case TimeoutError():
            return f"no answer within {patience_s:.0f} s"
        case ConnectionRefusedError():
            return "connection refused"
        case socket.gaierror():
            return "host name not found"
        case ssl.SSLCertVerificationError():
            return "its TLS certificate is not trusted here"
        case ssl.SSLError():
            return "no TLS there; try ws://"
        case InvalidMessage():
            return "something else answers there"
        case OSError(strerror=str(reason)) if reason:
            return reason.lower()
        case _:
            return type(error).__name__
