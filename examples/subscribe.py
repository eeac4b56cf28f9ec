"""Print the finals of all streams of a tenant, from NATS, from now on; end with Ctrl-C.

    python examples/subscribe.py dev --nats-url nats://127.0.0.1:4222

Needs nats-py and speechbus-contracts. What was said before is in the JetStream stream TRANSCRIPT;
contracts/README.md says how to read it without missing or doubling anything.
"""
# ruff: noqa: T201 (printing is what it is for)

import argparse
import asyncio
import sys
from contextlib import suppress

import nats.errors
from nats.aio.client import Client

from speechbus_contracts import TRANSCRIPT_ROOT, ContractError, SegmentFinal, decode_event

CONNECT_TIMEOUT_S = 3.0
"""nats-py itself would try for two minutes."""


def main() -> None:
    """Run from the command line; see `--help`."""
    parser = argparse.ArgumentParser(description="Print the finals of a tenant.")
    parser.add_argument("tenant", help="the name beside the API key, or * for all tenants")
    parser.add_argument("--nats-url", default="nats://127.0.0.1:4222")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(print_finals(arguments.tenant, nats_url=arguments.nats_url))


async def print_finals(tenant: str, *, nats_url: str) -> None:
    """Print finals until cancelled.

    Raises:
        SystemExit: no server answers; the text says what to do.
    """
    bus = Client()

    async def say_error(error: Exception) -> None:
        if bus.is_connected:  # a lost connection is made again, by nats-py
            print(f"NATS: {error}", file=sys.stderr)

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await bus.connect(nats_url, error_cb=say_error)  # pyright: ignore[reportUnknownMemberType]
    except (OSError, ValueError, nats.errors.Error):  # TimeoutError is an OSError
        raise SystemExit(
            "No NATS server answers there, or not to this user: start one (`speechbus dev` brings"
            " its own), or name another by --nats-url, as in nats://USER:PASSWORD@HOST:4222."
        ) from None
    try:
        # JetStream republishes here what it has accepted: each final once, retries included.
        finals = await bus.subscribe(f"{TRANSCRIPT_ROOT}.{tenant}.*.final")  # pyright: ignore[reportUnknownMemberType]
        await bus.flush()
        print("listening", flush=True)
        async for message in finals.messages:
            try:
                event = decode_event(message.data)
            except ContractError:
                continue  # not an event of this version
            if isinstance(event, SegmentFinal):
                start_s = event.start_ms / 1000
                print(f"{event.stream_id}  {start_s:7.1f} s  {event.text}", flush=True)
    finally:
        await bus.close()


if __name__ == "__main__":
    main()
