"""Client secrets: made for a tenant, good for one stream."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from speechbus_contracts import TRANSCRIPT_STORE, WriteSubject
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.stream import new_stream_id
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_runtime.bus import BusConnection
from speechbus_runtime.jetstream import JetStreamUnavailableError, read_last
from speechbus_wire.kotoba_secrets import (
    SecretClaims,
    SecretRequest,
    sign_secret,
    verify_secret,
)

__all__ = ["USED_MAX", "ClientSecrets", "SpentSecretError"]

USED_MAX: Final = 100_000
"""Used secrets remembered, some 20 MB; the bus knows the others that have opened a stream."""


class SpentSecretError(Exception):
    """A secret that was good: it has expired, or was used."""


class ClientSecrets:
    """Makes client secrets, and sees that each is used once.

    A secret names the one stream that it opens. This process remembers those it spent; beyond it,
    the stream's `opened` on the bus is the mark of use, and JetStream accepts only one.

    Args:
        keys: tenants; a secret of a tenant that is not among them (any more) is refused.
        signing_secrets: the same in all processes that shall take them.
        bus: where streams are looked up.
        now_ns: wall clock, ns since 1970.
    """

    def __init__(
        self,
        keys: KeyRing,
        signing_secrets: TokenSecrets,
        bus: BusConnection,
        *,
        now_ns: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._signing_secrets = signing_secrets
        self._bus = bus
        self._now_ns = now_ns
        self._used: OrderedDict[str, int] = OrderedDict()

    def mint(self, tenant: str, request: SecretRequest) -> tuple[str, int]:
        """Return a new secret, and when it expires (seconds since 1970)."""
        expires_at_s = self._now_s() + request.ttl_s
        claims = SecretClaims(
            tenant=tenant,
            stream_id=new_stream_id(self._now_ns()),
            expires_at_s=expires_at_s,
            dialect=request.asked.dialect,
            remembered=request.remembered,
        )
        return sign_secret(claims, self._signing_secrets.current), expires_at_s

    async def verify(self, credential: str) -> SecretClaims | None:
        """Return what a secret says, without using it up; None: it is none of ours.

        Raises:
            SpentSecretError: it has expired, or was used.
        """
        claims = self._read(credential)
        if claims is None or not self._keys.has_tenant(claims.tenant):
            return None
        if claims.expires_at_s <= self._now_s() or await self._has_opened(claims):
            raise SpentSecretError
        return claims

    def spend(self, claims: SecretClaims) -> None:
        """Use up a secret.

        Raises:
            SpentSecretError: this process has done so before.
        """
        used = self._used
        if claims.stream_id in used:
            raise SpentSecretError
        used[claims.stream_id] = claims.expires_at_s
        now_s = self._now_s()
        while used and (len(used) > USED_MAX or next(iter(used.values())) <= now_s):
            used.popitem(last=False)

    def _read(self, credential: str) -> SecretClaims | None:
        for secret in self._signing_secrets.taken:
            claims = verify_secret(credential, secret)
            if claims is not None:
                return claims
        return None

    async def _has_opened(self, claims: SecretClaims) -> bool:
        subject = str(WriteSubject(claims.tenant, claims.stream_id, "opened"))
        try:
            return await read_last(self._bus, TRANSCRIPT_STORE, subject) is not None
        except JetStreamUnavailableError:
            return False  # then no stream can be opened, or the second one is refused

    def _now_s(self) -> int:
        return self._now_ns() // 1_000_000_000
