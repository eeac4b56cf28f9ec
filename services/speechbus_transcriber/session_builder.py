"""Makes a stream's sessions: which provider, in which language."""

import asyncio
import logging
from typing import Final

import msgspec

from speechbus_contracts import StreamOpened
from speechbus_transcriber.provider_session import ProviderSession, SessionOwner
from speechbus_transcriber.providers.registry import default_route, plan_stream
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.stream_context import StreamContext

__all__ = ["ProvidersExhaustedError", "SessionBuilder"]

logger = logging.getLogger(__name__)


ROUTES_MAX: Final = 16
"""Languages whose providers' failures are remembered; a stream goes back by one or two."""


class ProvidersExhaustedError(Exception):
    """No provider takes the stream (any more)."""


class SessionBuilder:
    """All sessions of one stream on one worker.

    Args:
        opened: the stream.
        epoch: of this worker's ownership.
        context: of the worker.
    """

    def __init__(self, opened: StreamOpened, epoch: int, context: StreamContext) -> None:
        self._opened = opened
        self._epoch = epoch
        self._context = context
        self._routes: dict[str | None, Route] = {}

    def build(self, language: str | None, owner: SessionOwner) -> ProviderSession:
        """Return a session at the provider whose turn it is, which is to be opened.

        Raises:
            ProvidersExhaustedError: there is none.
        """
        opened = self._opened
        if language != opened.language:
            opened = msgspec.structs.replace(opened, language=language)
        route = self._routes.get(language)
        if route is None:
            route = self._routes[language] = self._plan_route(opened)
            if len(self._routes) > ROUTES_MAX:
                del self._routes[next(iter(self._routes))]
        name = route.current
        if name is None:
            raise ProvidersExhaustedError
        return ProviderSession(
            opened,
            SegmentContext(
                stream_id=opened.stream_id,
                tenant=opened.tenant,
                epoch=self._epoch,
                provider=name,
                language=language,
                target_languages=opened.target_languages,
                channel=opened.channel,
            ),
            self._context.providers[name],
            route,
            self._context.connections,
            owner,
            now_s=asyncio.get_running_loop().time,
        )

    def _plan_route(self, opened: StreamOpened) -> Route:
        providers = self._context.providers
        names = plan_stream(opened, providers)
        left_out = [name for name in default_route(tuple(providers)) if name not in names]
        if left_out and not opened.providers:
            logger.info(
                "providers left out: they do not take the stream's language, or need to be told it",
                extra={
                    "stream_id": opened.stream_id,
                    "providers": left_out,
                    "language": opened.language,
                },
            )
        return Route(names)
