"""How Palabra's side of HTTP says no."""

from starlette.requests import HTTPConnection
from starlette.responses import Response

from speechbus_wire.palabra_sessions import Problem, encode_problem

__all__ = ["RefusedError", "build_unavailable"]


class RefusedError(Exception):
    """Answered with an HTTP status and the vendor's error body."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(code)
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail

    def build_response(self, connection: HTTPConnection) -> Response:
        """Return the whole answer."""
        problem = Problem(
            status=self.status,
            title=self.title,
            detail=self.detail,
            error_code=self.code,
            instance=connection.url.path,
        )
        headers: dict[str, str] = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return Response(
            encode_problem(problem), self.status, headers=headers, media_type="application/json"
        )


def build_unavailable() -> RefusedError:
    """Return the answer while the sessions cannot be read or written."""
    return RefusedError(
        503,
        "unavailable",
        "Service Unavailable",
        "Sessions cannot be looked up: try again later.",
        retry_after_s=2,
    )
