"""The HTTP that a simulator needs: one request a connection, and an answer. Pure."""

import http.client
import io
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

__all__ = ["BODY_BYTES_MAX", "Asked", "RefusedError", "name_status", "parse_head", "respond"]

BODY_BYTES_MAX: Final = 64 << 10
LENGTH_DIGITS_MAX: Final = 9
"""Of a length: a longer number is not worth reading."""


class Asked(msgspec.Struct, frozen=True):
    """A request without its body."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def body_length(self) -> int:
        """Bytes of its body.

        Raises:
            RefusedError: too many, or the request does not say.
        """
        if "transfer-encoding" in self.headers:
            raise RefusedError(411, "Send the body with a Content-Length.")
        text = self.headers.get("content-length", "0")
        if not (text.isascii() and text.isdigit()):
            raise RefusedError(400, "Content-Length is no number.")
        if len(text) > LENGTH_DIGITS_MAX or (length := int(text)) > BODY_BYTES_MAX:
            raise RefusedError(413, f"The body has more than {BODY_BYTES_MAX} bytes.")
        return length


class RefusedError(Exception):
    """Answered with an HTTP status; the provider's own body tells the code and the detail."""

    def __init__(
        self, status: int, detail: str, *, code: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.retry_after_s = retry_after_s


def parse_head(head: bytes) -> Asked:
    """Read a request's head, to its empty line.

    Raises:
        RefusedError: it is none.
    """
    line, _, rest = head.partition(b"\r\n")
    try:
        method, target, _ = line.decode("latin-1").split(" ")
        parts = urlsplit(target)
        headers = http.client.parse_headers(io.BytesIO(rest))
    except (ValueError, http.client.HTTPException):
        raise RefusedError(400, "The request is no HTTP.") from None
    return Asked(
        method=method,
        path=parts.path,
        query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        headers={name.lower(): value for name, value in headers.items()},
    )


def name_status(status: int) -> str:
    """Return what a status is called; scripts may have one without a name."""
    return http.client.responses.get(status, "Refused")


def respond(status: int, content: Any = None, *, retry_after_s: int | None = None) -> bytes:  # noqa: ANN401 (any JSON)
    """Return an answer with a JSON body; None: without one."""
    body = b"" if content is None else msgspec.json.encode(content)
    lines = [f"HTTP/1.1 {status} {name_status(status)}", "Connection: close"]
    if status != HTTPStatus.NO_CONTENT:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if retry_after_s is not None:
        lines.append(f"Retry-After: {retry_after_s}")
    return "\r\n".join([*lines, "", ""]).encode() + body
