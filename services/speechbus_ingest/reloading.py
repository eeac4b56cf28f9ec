"""Keys, token secrets and certificates that change while the service runs."""

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Final

from speechbus_ingest.gate.tls import Certificate, CertificateError
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.settings import Settings
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_runtime.secret import Secret
from speechbus_runtime.settings import SettingsError

__all__ = ["Reloading", "encode_secret"]

logger = logging.getLogger(__name__)

RELOAD_S: Final = 5.0
"""Files are small; orchestrators replace mounted secrets within a minute anyway."""


class Reloading:
    """Looks for changes every few seconds, and at once after SIGHUP.

    Variables cannot change in a running process, but the files that `…_FILE` variables name can.

    Args:
        settings: as they were read first.
        read: reads them again.
        keys: get new keys.
        secrets: get new token secrets.
        certificate: gets a renewed one; None: no TLS.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        *,
        keys: KeyRing,
        secrets: TokenSecrets,
        certificate: Certificate | None,
    ) -> None:
        self._settings = settings
        self._read = read
        self._keys = keys
        self._secrets = secrets
        self._certificate = certificate
        self._is_asked = asyncio.Event()
        self._mistake = ""

    async def run(self) -> None:
        """Run until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._is_asked.set)
        try:
            while True:
                try:
                    async with asyncio.timeout(RELOAD_S):
                        await self._is_asked.wait()
                except TimeoutError:
                    pass
                self._is_asked.clear()
                await self._look()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _look(self) -> None:
        try:
            # In a thread: a file may lie on a server that does not answer.
            self._take(await asyncio.to_thread(self._read))
            if self._certificate is not None and await asyncio.to_thread(self._certificate.reload):
                logger.info("certificate renewed")
        except (SettingsError, CertificateError) as error:
            if str(error) != self._mistake:  # said once, not every five seconds
                logger.error("settings were not taken over", extra={"why": str(error)})  # noqa: TRY400
            self._mistake = str(error)
        else:
            self._mistake = ""

    def _take(self, settings: Settings) -> None:
        former, self._settings = self._settings, settings
        if _reveal(settings) != _reveal(former):
            self._keys.replace(_reveal(settings))
            logger.info("keys changed", extra={"n_keys": len(settings.api_keys)})
        current = encode_secret(settings.token_secret)
        if current is None:
            return
        before = encode_secret(settings.token_secret_former)
        if self._secrets.taken != ((current,) if before is None else (current, before)):
            self._secrets.replace(current, before)
            logger.info("token secrets changed")


def encode_secret(secret: Secret | None) -> bytes | None:
    """Return a token secret as it signs."""
    return None if secret is None else secret.reveal().encode(errors="surrogatepass")


def _reveal(settings: Settings) -> list[tuple[str, str]]:
    return [(tenant, key.reveal()) for tenant, key in settings.api_keys]
