"""What others are told about a provider session: its spans, and how many there are where."""

from collections.abc import Generator
from contextlib import contextmanager

from speechbus_runtime.tracing import Span, Tracing
from speechbus_transcriber.measures import Measures, classify_error
from speechbus_transcriber.providers.interface import ProviderError

__all__ = ["SessionRecord"]


class SessionRecord:
    """One session, from the try to open it to its end.

    It has two spans. The first one is its opening, and what the session says follows from that:
    it is over at once, so that nobody's parent is lost with a worker. The second one is its life.

    Args:
        tracing: makes them.
        measures: of the worker.
        provider: of the session.
        stream_id: of the stream.
        parent: `traceparent` of the worker's claim.
        former: the stream's session before it; None: there is none here.
    """

    def __init__(
        self,
        tracing: Tracing,
        measures: Measures,
        *,
        provider: str,
        stream_id: str,
        parent: str,
        former: "SessionRecord | None",
    ) -> None:
        self._tracing = tracing
        self._measures = measures
        self.provider = provider
        self._attributes = {"speechbus.stream.id": stream_id, "speechbus.provider": provider}
        self._parent = parent
        self._former = former
        self._life: Span | None = None
        self.has_failed = False
        self.traceparent = parent
        """What the session says follows from this."""

    @contextmanager
    def opening(self) -> Generator[None]:
        """The session is opened in this block; an error that leaves it is why not."""
        former, self._former = self._former, None  # or all of a stream's would stay
        span = self._tracing.start(
            "open session",
            kind="client",
            parent=self._parent,
            link="" if former is None else former.traceparent,
            attributes=self._attributes,
        )
        self.traceparent = span.traceparent
        try:
            yield
        except ProviderError as error:
            self.has_failed = True
            span.fail(classify_error(error))
            raise
        finally:
            span.end()
        self._life = self._tracing.start(
            "session", kind="client", parent=self.traceparent, attributes=self._attributes
        )
        self._measures.n_sessions[self.provider] += 1
        if former is not None and former.has_failed and former.provider != self.provider:
            self._measures.count_failover(former.provider, self.provider)

    def end(self, error: ProviderError | None) -> None:
        """The session has ended; called again, it does nothing."""
        if error is not None:
            self.has_failed = True
        life, self._life = self._life, None
        if life is None:
            return
        self._measures.n_sessions[self.provider] -= 1
        if error is not None:
            life.fail(classify_error(error))
        life.end()
