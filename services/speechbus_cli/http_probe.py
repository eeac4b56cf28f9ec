"""One GET with a short patience, for readiness checks."""

import asyncio
import http
import http.client
from typing import Final
from urllib.parse import urlsplit

import msgspec

__all__ = ["HttpAnswer", "is_well", "probe_http"]

TIMEOUT_S: Final = 2.0
"""Readiness is answered from memory, within milliseconds."""
BODY_BYTES_MAX: Final = 65_536


class HttpAnswer(msgspec.Struct, frozen=True):
    """What a server said."""

    status: int
    body: bytes
    """At most `BODY_BYTES_MAX` of it."""


async def probe_http(url: str) -> HttpAnswer | None:
    """GET a page; no redirects, no proxy.

    Args:
        url: `http://` or `https://`.

    Returns:
        None when nobody answers.
    """
    return await asyncio.to_thread(_probe, url)


async def is_well(url: str) -> bool:
    """Tell whether a readiness page answers 200."""
    answer = await probe_http(url)
    return answer is not None and answer.status == http.HTTPStatus.OK


def _probe(url: str) -> HttpAnswer | None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", parts.path or "/")
            answer = connection.getresponse()
            return HttpAnswer(status=answer.status, body=answer.read(BODY_BYTES_MAX))
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return None
