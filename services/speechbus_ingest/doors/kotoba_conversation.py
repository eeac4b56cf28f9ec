"""One connection at Kotoba's address, from its first message to its close."""

import asyncio
import logging
from contextlib import suppress
from typing import Final, cast

import msgspec

from speechbus_ingest.bus_stream import StreamExistsError
from speechbus_ingest.doors.kotoba_exchange import Exchange
from speechbus_ingest.doors.kotoba_peer import INTERNAL, FatalError, GoneError, Peer, over_limit
from speechbus_ingest.doors.outbox import Outbox
from speechbus_ingest.formats.names import AudioFormat, RawFormat
from speechbus_ingest.registry import OverLimitError, StreamRegistry
from speechbus_ingest.stream import StreamRequest
from speechbus_wire.kotoba import Append, RequestError
from speechbus_wire.kotoba_door import Clear, DoorMessage, Update, build_default_session
from speechbus_wire.kotoba_openai import Cleared
from speechbus_wire.kotoba_secrets import SecretClaims, read_remembered_session
from speechbus_wire.kotoba_sessions import Asked, Dialect

__all__ = ["Caller", "Conversation"]

logger = logging.getLogger(__name__)

SETUP_S: Final = 10.0
"""The settings must come within this of connecting (providers.md 1.4)."""
AFTER_COMMITTED_S: Final = 5.0
"""The client closes; the server does when it has not (providers.md 1.6)."""
OPEN_TIMEOUT_S: Final = 10.0
"""The bus answers within a millisecond; a restart of NATS takes seconds."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who has connected."""

    tenant: str
    dialect: Dialect
    claims: SecretClaims | None
    """None: came with a key."""


class Conversation:
    """Carries one accepted connection.

    Args:
        peer: the client.
        registry: holds the streams.
        caller: who it is.
        idle_s: a client that sends nothing this long is sent away.
        duration_s: longest stream.
    """

    def __init__(
        self,
        peer: Peer,
        registry: StreamRegistry,
        caller: Caller,
        *,
        idle_s: float,
        duration_s: float,
    ) -> None:
        self._peer = peer
        self._registry = registry
        self._caller = caller
        self._idle_s = idle_s
        self._duration_s = duration_s

    async def run(self) -> None:
        """Serve the client until either side closes."""
        try:
            asked, first = await self._settle()
            await self._serve(asked, first)
            # The stream is closed and let go; its client may read for a while.
            with suppress(TimeoutError):
                async with asyncio.timeout(AFTER_COMMITTED_S):
                    while True:
                        await self._peer.ignore()
        except GoneError:
            return
        except RequestError as error:
            await self._peer.close(FatalError.of(error))
        except FatalError as error:
            await self._peer.close(error)
        else:
            await self._peer.close(None)

    async def _settle(self) -> tuple[Asked, Append | None]:
        """Read until the settings stand: Kotoba's by an update, OpenAI's by the first audio.

        Returns:
            The settings, and the append that has settled them.

        Raises:
            RequestError: a message is wrong, in Kotoba's dialect.
        """
        peer = self._peer
        asked = self._begin()
        await peer.tell_session("created", asked)
        try:
            async with asyncio.timeout(SETUP_S if peer.dialect == "kotoba" else self._idle_s):
                while True:
                    try:
                        message = await peer.read()
                    except RequestError as error:
                        await peer.forgive(error)
                        continue
                    match message:
                        case Update():
                            asked, peer.settings = message.asked, message.settings
                            peer.dialect = asked.dialect
                            if peer.dialect == "kotoba":
                                return asked, None
                            await peer.tell_session("updated", asked)
                        case Append() if peer.dialect != "kotoba":
                            return asked, message
                        case _:
                            await self._answer_early(message)
        except TimeoutError:
            raise FatalError(
                "timeout_error", "Send transcription_session.update within 10 s of connecting."
            ) from None

    def _begin(self) -> Asked:
        """Return the settings without any update: the secret's, if it speaks the same dialect."""
        claims, dialect = self._caller.claims, self._peer.dialect
        if claims is None or (claims.dialect == "general") != (dialect == "general"):
            return build_default_session(dialect)
        asked = read_remembered_session(claims.remembered, dialect)
        self._peer.dialect = asked.dialect
        self._peer.settings = claims.remembered.encode() or self._peer.settings
        return asked

    async def _answer_early(self, message: DoorMessage) -> None:
        peer = self._peer
        if peer.dialect == "kotoba":
            raise RequestError("invalid_event", "The update comes before everything else.")
        if isinstance(message, Clear):
            await peer.tell(Cleared(event_id=peer.name_event("event")))
        else:
            await peer.forgive(
                RequestError("input_audio_buffer_commit_empty", "There is no audio yet.")
            )

    async def _serve(self, asked: Asked, first: Append | None) -> None:
        claims = self._caller.claims
        request = StreamRequest(
            tenant=self._caller.tenant,
            door="kotoba" if asked.dialect == "kotoba" else "openai",
            sample_rate_hz=asked.audio.sample_rate_hz,
            language=asked.language,
            keywords=asked.keywords,
            audio_format=AudioFormat(encoding=cast(RawFormat, asked.audio.encoding)),
            stream_id=None if claims is None else claims.stream_id,
        )
        outbox = Outbox()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S) as opening:
                async with self._registry.open_stream(request, outbox) as stream:
                    opening.reschedule(None)
                    if first is None:
                        await self._peer.tell_session("updated", asked)
                    exchange = Exchange(self._peer, stream, outbox, asked, idle_s=self._idle_s)
                    await exchange.run(first, duration_s=self._duration_s)
        except OverLimitError:
            raise over_limit() from None  # others took the room during the upgrade
        except StreamExistsError:
            raise FatalError("session_expired", "The client secret was used.") from None
        except TimeoutError:
            logger.warning("a stream could not be opened", extra={"door": request.door})
            raise FatalError(
                "internal_error", "The bus does not answer: try again.", INTERNAL
            ) from None
