"""The page's own files, over HTTP."""

import hashlib
from importlib.resources import files
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served; the folder holds Python modules, too."""

SECURITY_HEADERS: Final = {
    "content-security-policy": "default-src 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address may hold the key
    "x-frame-options": "DENY",
}
INDEX: Final = "index.html"


class _File(msgspec.Struct, frozen=True):
    body: bytes
    media_type: str
    etag: str


def page_routes() -> list[Route]:
    """Return `GET /` and `GET /static/...`; the files are read here, once."""
    served = _read_files()

    async def index(request: Request) -> Response:
        return _answer(request, served[INDEX])

    async def static(request: Request) -> Response:
        found = served.get(request.path_params["name"])
        return Response(status_code=404) if found is None else _answer(request, found)

    return [
        Route("/", index, methods=["GET"]),
        Route("/static/{name}", static, methods=["GET"]),
    ]


def _read_files() -> dict[str, _File]:
    served: dict[str, _File] = {}
    for entry in files("speechbus_ingest.viewer").iterdir():
        media_type = MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :])
        if media_type is not None:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            served[entry.name] = _File(body, media_type, etag)
    return served


def _answer(request: Request, file: _File) -> Response:
    # "no-cache" is "ask before use": after an update no page mixes old modules with new ones.
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache", "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers={**headers, "content-type": file.media_type})
