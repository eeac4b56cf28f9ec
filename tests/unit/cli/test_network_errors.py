import errno
import os
import socket
import ssl

import pytest
from websockets.exceptions import InvalidMessage

from speechbus_cli.network_errors import describe_network_error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "no answer within 10 s"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "host name not found"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "no TLS there; try ws://"),
        (ssl.SSLCertVerificationError(1, "x"), "its TLS certificate is not trusted here"),
        (InvalidMessage("did not receive a valid HTTP response"), "something else answers there"),
        (OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)), "no route to host"),
    ],
)
def test_network_errors_are_told_in_words(error: Exception, words: str) -> None:
    """The name of a Python class tells a newcomer nothing, and each of these has another remedy."""
    assert describe_network_error(error, patience_s=10.0) == words
