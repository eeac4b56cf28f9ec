"""All that ingest serves on its one port."""

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute

from speechbus_ingest.doors.kotoba import KotobaDoor
from speechbus_ingest.doors.native import NativeDoor
from speechbus_ingest.doors.palabra import PalabraDoor
from speechbus_ingest.doors.palabra_storage import PalabraStorage
from speechbus_ingest.viewer.routes import Viewer

__all__ = ["build_app"]


def build_app(
    *,
    native: NativeDoor,
    storage: PalabraStorage,
    palabra: PalabraDoor,
    kotoba: KotobaDoor,
    viewer: Viewer,
    health: Iterable[BaseRoute],
) -> Starlette:
    """Return the doors, the page and the probes as one application."""
    return Starlette(
        routes=[
            WebSocketRoute("/v1/streams", native.serve),
            *storage.routes(),
            *palabra.routes(),
            *kotoba.routes(),
            *viewer.routes(),
            *health,
        ]
    )
