"""Makes a stream's sessions: which provider, in which language."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from speechbus_contracts import StreamOpened
from speechbus_transcriber.governor.seats import Lease, Ticket
from speechbus_transcriber.provider_session import ProviderSession, SessionOwner
from speechbus_transcriber.providers.registry import default_route, plan_stream
from speechbus_transcriber.route import Route
from speechbus_transcriber.segmenter import SegmentContext
from speechbus_transcriber.session_record import SessionRecord
from speechbus_transcriber.stream_context import StreamContext

__all__ = ["ProvidersExhaustedError", "SessionBuilder"]

logger = logging.getLogger(__name__)


NONE_TAKES_IT: Final = (
    "the client names others of 'providers', or none of them; tells its 'language'; or"
    " SPEECHBUS_TRANSCRIBER_PROVIDERS has more"
)
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
        traceparent: of its claim.
    """

    def __init__(
        self, opened: StreamOpened, epoch: int, context: StreamContext, traceparent: str = ""
    ) -> None:
        self._opened = opened
        self._epoch = epoch
        self._context = context
        self._traceparent = traceparent
        self._record: SessionRecord | None = None
        self._routes: dict[str | None, Route] = {}

    def ask(
        self,
        language: str | None,
        *,
        wake: Callable[[], None],
        patience_s: float,
        rest_s: float = 0.0,
        at_worst: str | None = None,
    ) -> Ticket:
        """Ask for the right to a session, for `build`, or else for `withdraw`.

        Args:
            language: of the session.
            wake: called when the ticket gets its lease later.
            patience_s: wait so long for a slot of the best provider before others will do.
            rest_s: where all providers are dead, wait so long for one to be found well.
            at_worst: a provider that is in use: none that comes behind it will do.

        Raises:
            ProvidersExhaustedError: no provider takes the language.
        """
        order = self._find_route(language).order
        if not order:
            raise ProvidersExhaustedError
        if at_worst in order:
            order = order[: order.index(at_worst) + 1]
        return self._context.governor.ask(order, wake=wake, patience_s=patience_s, rest_s=rest_s)

    def withdraw(self, ticket: Ticket) -> None:
        """No session is wanted any more."""
        self._context.governor.withdraw(ticket)

    def build(self, language: str | None, lease: Lease, owner: SessionOwner) -> ProviderSession:
        """Return a session, which is to be opened."""
        opened = self._localize(language)
        name = lease.provider
        capabilities = self._context.providers[name].capabilities
        route = self._find_route(language)
        self._record = SessionRecord(
            self._context.tracing,
            self._context.measures,
            provider=name,
            stream_id=opened.stream_id,
            parent=self._traceparent,
            former=self._record,
        )
        return ProviderSession(
            opened,
            SegmentContext(
                stream_id=opened.stream_id,
                tenant=opened.tenant,
                epoch=self._epoch,
                provider=name,
                language=language,
                target_languages=opened.target_languages,
                promised_languages=opened.target_languages if capabilities.translates else (),
                channel=opened.channel,
            ),
            capabilities,
            lease,
            route,
            self._context.governor,
            self._context.connections,
            owner,
            self._record,
            now_s=asyncio.get_running_loop().time,
        )

    def _localize(self, language: str | None) -> StreamOpened:
        opened = self._opened
        if language == opened.language:
            return opened
        return msgspec.structs.replace(opened, language=language)

    def _find_route(self, language: str | None) -> Route:
        route = self._routes.get(language)
        if route is None:
            route = self._routes[language] = self._plan_route(self._localize(language))
            if len(self._routes) > ROUTES_MAX:
                del self._routes[next(iter(self._routes))]
        return route

    def _plan_route(self, opened: StreamOpened) -> Route:
        providers = self._context.providers
        names = plan_stream(opened, providers)
        left_out = [name for name in default_route(tuple(providers)) if name not in names]
        if not names:
            logger.warning(
                "no provider here takes the stream",
                extra={
                    "stream_id": opened.stream_id,
                    "wanted": list(opened.providers),
                    "language": opened.language,
                    "providers": list(providers),
                    "advice": NONE_TAKES_IT,
                },
            )
        elif left_out and not opened.providers:
            logger.info(
                "providers left out: they do not take the stream's language, or need to be told it",
                extra={
                    "stream_id": opened.stream_id,
                    "providers": left_out,
                    "language": opened.language,
                },
            )
        return Route(names)
