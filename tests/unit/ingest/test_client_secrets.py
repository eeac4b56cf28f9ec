"""Client secrets: made for a tenant, good for one stream."""

import asyncio
from typing import cast

import nats.errors
import pytest

from speechbus_ingest.doors import client_secrets
from speechbus_ingest.doors.client_secrets import ClientSecrets, SpentSecretError
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_runtime.bus import BusConnection
from speechbus_wire.kotoba_secrets import SecretClaims, decode_transcription_session_request

SIGNING_SECRET = b"thirty-two characters at the least"


class AwayBus:
    """The bus does not answer: what this process knows is all there is."""

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> None:  # noqa: ASYNC109
        """Wait in vain."""
        raise nats.errors.TimeoutError


class Clock:
    """Moved by the test."""

    now_s = 1_000

    def read_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self.now_s * 1_000_000_000


def build(clock: Clock, *tenants: str) -> ClientSecrets:
    """Secrets of a process that knows these tenants."""
    return ClientSecrets(
        KeyRing((tenant, f"key-of-{tenant}") for tenant in tenants),
        TokenSecrets(SIGNING_SECRET),
        cast(BusConnection, AwayBus()),
        now_ns=clock.read_ns,
    )


def mint(secrets: ClientSecrets) -> str:
    """A new secret of 600 s."""
    return secrets.mint("acme", decode_transcription_session_request(b"", "kotoba"))[0]


def verify(secrets: ClientSecrets, secret: str) -> SecretClaims:
    """What a secret says that is one."""
    claims = asyncio.run(secrets.verify(secret))
    assert claims is not None
    return claims


def test_a_secret_is_spent_once() -> None:
    """Looking at it uses nothing up; each is for a stream of its own."""
    secrets = build(Clock(), "acme")
    one, other = mint(secrets), mint(secrets)
    claims = verify(secrets, one)

    assert verify(secrets, one) == claims
    assert claims.tenant == "acme"
    assert verify(secrets, other).stream_id != claims.stream_id
    secrets.spend(claims)
    with pytest.raises(SpentSecretError):
        secrets.spend(verify(secrets, one))


def test_a_secret_expires_to_the_second() -> None:
    """Not a second later."""
    clock = Clock()
    secrets = build(clock, "acme")
    secret = mint(secrets)
    clock.now_s += 599
    verify(secrets, secret)
    clock.now_s += 1

    with pytest.raises(SpentSecretError):
        verify(secrets, secret)


def test_a_secret_of_a_tenant_that_is_gone_is_none() -> None:
    """Whoever's key was taken away has no secrets left."""
    secret = mint(build(Clock(), "acme", "beta"))

    assert asyncio.run(build(Clock(), "beta").verify(secret)) is None


def test_what_was_spent_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest is forgotten: then the bus is asked, which knows its stream."""
    monkeypatch.setattr(client_secrets, "USED_MAX", 2)
    secrets = build(Clock(), "acme")
    oldest, *others = [verify(secrets, mint(secrets)) for _ in range(3)]
    for spent in (oldest, *others):
        secrets.spend(spent)

    for spent in others:
        with pytest.raises(SpentSecretError):
            secrets.spend(spent)
    secrets.spend(oldest)


def test_what_has_expired_is_forgotten() -> None:
    """Its time alone keeps it from being used."""
    clock = Clock()
    secrets = build(clock, "acme")
    spent = verify(secrets, mint(secrets))
    secrets.spend(spent)
    clock.now_s += 600
    secrets.spend(verify(secrets, mint(secrets)))

    secrets.spend(spent)
