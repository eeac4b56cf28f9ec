"""Where clients put their key."""

from starlette.requests import HTTPConnection

__all__ = ["find_credential"]


def find_credential(connection: HTTPConnection) -> str | None:
    """Return the key of `Authorization: Bearer KEY` or of `?token=KEY`; None: neither is there."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return connection.query_params.get("token")
