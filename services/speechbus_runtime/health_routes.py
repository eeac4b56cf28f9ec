"""The answers to health probes as Starlette routes, for a service that has an HTTP port anyway."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from speechbus_runtime.health import Health, HealthReport

__all__ = ["health_routes"]


def health_routes(health: Health) -> list[Route]:
    """Return `GET /healthz` and `GET /readyz`; wrap the service in `watch_event_loop` as well."""

    async def healthz(_request: Request) -> Response:
        return _response(health.live_report())

    async def readyz(_request: Request) -> Response:
        return _response(health.ready_report())

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]


def _response(report: HealthReport) -> Response:
    return Response(
        report.encode(),
        status_code=report.status_code,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
