"""Whom providers' addresses are trusted by: one answer for HTTP and WebSockets."""

import ssl
from functools import cache

__all__ = ["tls_context"]


@cache
def tls_context() -> ssl.SSLContext:
    """Return the context of all connections to providers.

    It trusts what the system trusts, or `SSL_CERT_FILE` and `SSL_CERT_DIR`; httpx by itself would
    bring a list of its own, and a company's proxy would pass for one half of a session only.
    """
    return ssl.create_default_context()
