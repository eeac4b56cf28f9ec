"""Settings of the transcriber, from SPEECHBUS_TRANSCRIBER_* variables."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from speechbus_contracts import ContractError, parse_token
from speechbus_runtime.bus_settings import BusSettings
from speechbus_runtime.secret import Secret
from speechbus_transcriber.governor.admission import WithoutSlot
from speechbus_transcriber.providers.kotoba import KotobaAccount
from speechbus_transcriber.providers.palabra import PalabraAccount
from speechbus_transcriber.providers.registry import PROVIDER_NAMES, Accounts

__all__ = ["SETTINGS_PREFIX", "Settings"]

SETTINGS_PREFIX: Final = "SPEECHBUS_TRANSCRIBER_"
PALABRA_KEY_URL: Final = "wss://stream.palabra.ai/asr/v1/speech-to-text/stream"
PALABRA_CLIENT_URL: Final = "wss://api.palabra.ai/asr/v1/speech-to-text/stream"
"""With an API key, or a session's token (providers.md 3.1)."""
PALABRA_KEY_SESSIONS: Final = 1
"""An API key is one identity, which has one session; a pool of keys is advised for more
(providers.md 3.7). With client credentials each session is an identity of its own."""
WEBSOCKET_SCHEMES: Final = ("wss://", "ws://")
HTTP_SCHEMES: Final = ("https://", "http://")
SESSIONS_DEFAULT: Final = 100
"""A tenth of what one process was measured to carry; raise it when cores are free."""


class Settings(BusSettings, frozen=True, kw_only=True):
    """What one worker process needs to know."""

    worker_id: str = ""
    """Name of this worker, unique in the pool; empty: one is made up."""
    sessions_max: Annotated[int, msgspec.Meta(ge=1, le=2_000)] | None = None
    """Streams it carries at once; empty: LOCAL_SESSIONS_MAX with `local` first, else 100.

    Further streams wait for another worker.
    """
    providers: tuple[str, ...] = ()
    """Providers it can reach, in the order to try them: `palabra`, `kotoba`, `local`, `echo`;
    empty: those with an account, then `local`."""
    local_sessions_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    """Sessions of the local engine; one core carries 8 to 10."""
    local_vad: Literal["silero", "webrtc"] = "silero"
    """Turn detection of the local engine: `silero` stands noise, `webrtc` costs less."""
    lag_max_s: Annotated[float, msgspec.Meta(ge=5, le=86_400)] | None = None
    """A stream further behind than this jumps to the present, with a `gap`; empty: never.

    Not for clients that send faster than real time: what they sent ahead would be left out.
    """
    session_limit_s: Annotated[float, msgspec.Meta(ge=5, le=86_400)] | None = None
    """Longest session at a cloud provider, whose vendors name none: a stream goes on in the next
    one before, in a pause. Empty: sessions last until they are ended there."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    """Number of AUDIO stores; the same in all services."""
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 20.0
    """After SIGTERM, streams may stay this long until another worker has taken them."""
    health_host: str = "127.0.0.1"
    """Address of /healthz, /readyz and /metrics."""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8081
    """Port of /healthz, /readyz and /metrics; 0: any free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "pretty"] = "json"
    """`json` lines for machines, `pretty` for people."""
    without_slot: WithoutSlot = "next"
    """A stream whose provider has no room goes on to the `next` of its route (and waits where none
    has room), or does `wait` for the first."""
    palabra_api_keys: Annotated[
        tuple[Secret, ...], msgspec.Meta(extra={"variable": "PALABRA_API_KEY"})
    ] = ()
    """Palabra's API keys; or the two below."""
    palabra_client_id: Annotated[str, msgspec.Meta(extra={"variable": "PALABRA_CLIENT_ID"})] = ""
    """Palabra's ClientId."""
    palabra_client_secret: Annotated[
        Secret | None, msgspec.Meta(extra={"variable": "PALABRA_CLIENT_SECRET"})
    ] = None
    """Palabra's ClientSecret."""
    palabra_sessions_max: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        msgspec.Meta(extra={"variable": "PALABRA_SESSIONS_MAX"}),
    ] = None
    """Sessions at once with each credential, of all workers together; 0: no limit; empty: 1 with a
    key, no limit with client credentials."""
    palabra_stt_url: Annotated[str, msgspec.Meta(extra={"variable": "PALABRA_STT_URL"})] = ""
    """Palabra's stream; empty: `wss://stream.palabra.ai/asr/v1/speech-to-text/stream` for a key,
    the same at `api.palabra.ai` for client credentials."""
    palabra_api_url: Annotated[str, msgspec.Meta(extra={"variable": "PALABRA_API_URL"})] = (
        "https://api.palabra.ai"
    )
    """Where Palabra hands out sessions."""
    kotoba_api_keys: Annotated[
        tuple[Secret, ...], msgspec.Meta(extra={"variable": "KOTOBA_API_KEY"})
    ] = ()
    """Kotoba's API keys."""
    kotoba_sessions_max: Annotated[
        int, msgspec.Meta(ge=0, extra={"variable": "KOTOBA_SESSIONS_MAX"})
    ] = 0
    """Sessions at once with each key, of all workers together; 0: no limit."""
    kotoba_asr_url: Annotated[str, msgspec.Meta(extra={"variable": "KOTOBA_ASR_URL"})] = (
        "wss://api.kotobatech.ai/v1/realtime"
    )
    """Kotoba's realtime recognition."""

    @property
    def accounts(self) -> Accounts:
        """What this worker may use of the cloud providers."""
        return Accounts(
            palabra=tuple(self._list_palabra()),
            kotoba=tuple(
                KotobaAccount(
                    api_key=key.reveal(),
                    url=self.kotoba_asr_url,
                    sessions_max=self.kotoba_sessions_max or None,
                )
                for key in dict.fromkeys(self.kotoba_api_keys)
            ),
        )

    @property
    def route(self) -> tuple[str, ...]:
        """Providers of this worker, in the order to try them."""
        return self.providers or (*self.accounts.names, "local")

    def _list_palabra(self) -> Iterator[PalabraAccount]:
        limit = self.palabra_sessions_max
        for key in dict.fromkeys(self.palabra_api_keys):
            yield PalabraAccount(
                stt_url=self.palabra_stt_url or PALABRA_KEY_URL,
                api_url=self.palabra_api_url,
                api_key=key.reveal(),
                sessions_max=PALABRA_KEY_SESSIONS if limit is None else limit or None,
            )
        if not self.palabra_api_keys and self.palabra_client_id and self.palabra_client_secret:
            yield PalabraAccount(
                stt_url=self.palabra_stt_url or PALABRA_CLIENT_URL,
                api_url=self.palabra_api_url,
                client_id=self.palabra_client_id,
                client_secret=self.palabra_client_secret.reveal(),
                sessions_max=limit or None,
            )

    @property
    def capacity(self) -> int:
        """Streams this worker offers to carry."""
        if self.sessions_max is not None:
            return self.sessions_max
        return self.local_sessions_max if self.route[0] == "local" else SESSIONS_DEFAULT

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: an unknown provider, one without an account, half of Palabra's client
                credentials, a worker id that is no token, or what `BusSettings` raises.
        """
        # All of them at once: who starts a service should not have to mend it mistake by mistake.
        if mistakes := "\n".join(self._find_mistakes()):
            raise ValueError(mistakes)

    def _find_mistakes(self) -> Iterator[str]:
        yield from self.nats_login.find_mistakes()
        if any(name not in PROVIDER_NAMES for name in self.providers):
            yield f"PROVIDERS takes only {', '.join(PROVIDER_NAMES)}"
        if bool(self.palabra_client_id) != bool(self.palabra_client_secret):
            yield "PALABRA_CLIENT_ID and PALABRA_CLIENT_SECRET come together"
        elif "palabra" in self.providers and not self.accounts.palabra:
            yield (
                "PROVIDERS with palabra needs PALABRA_API_KEY, or PALABRA_CLIENT_ID and"
                " PALABRA_CLIENT_SECRET"
            )
        if "kotoba" in self.providers and not self.accounts.kotoba:
            yield "PROVIDERS with kotoba needs KOTOBA_API_KEY"
        for name, url, schemes in (
            ("PALABRA_STT_URL", self.palabra_stt_url, WEBSOCKET_SCHEMES),
            ("PALABRA_API_URL", self.palabra_api_url, HTTP_SCHEMES),
            ("KOTOBA_ASR_URL", self.kotoba_asr_url, WEBSOCKET_SCHEMES),
        ):
            if url and not url.startswith(schemes):
                yield f"{name} begins with {' or '.join(schemes)}"
        if self.worker_id:
            try:
                parse_token(self.worker_id)
            except ContractError as error:
                yield f"WORKER_ID is no token: {error}"
