"""How the doors of our own refuse over HTTP, at an upgrade too."""

import msgspec
from starlette.responses import Response

__all__ = ["refusal"]


def refusal(status: int, code: str, message: str, *, retry_after_s: int | None = None) -> Response:
    """Build an answer that says what to do, in the form that all doors use."""
    body = msgspec.json.encode({"type": "error", "code": code, "message": message})
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    return Response(body, status_code=status, headers=headers, media_type="application/json")
