"""Audio that is read once and sent as often as servers ask for it."""

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from speechbus_cli.kept_audio import AHEAD_S, SEND_BYTES_MAX, KeptAudio
from tests.support.virtual_time import run_virtual

RATE_HZ = 100
SECOND = bytes(2 * RATE_HZ)


async def play(chunks: list[bytes], pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """Yield chunks, each after a pause."""
    for chunk in chunks:
        await asyncio.sleep(pause_s)
        yield chunk


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    breaks=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 100)), max_size=4),
)
def test_every_sample_reaches_the_last_server(
    sizes: list[int], breaks: list[tuple[int, int]]
) -> None:
    """However often the connection breaks, and wherever the next one wants it from."""
    pcm = bytes(range(256)) * 8
    chunks: list[bytes] = []
    for size in sizes:
        start = sum(map(len, chunks))
        chunks.append(pcm[start : start + 2 * size])
    whole = b"".join(chunks)

    async def run() -> None:
        kept = KeptAudio(play(chunks, 0.1), sample_rate_hz=RATE_HZ)
        accepted = bytearray()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kept.fill())
            for n_messages, percent in [*breaks, (len(whole), 100)]:
                received = bytearray()
                messages = kept.read_from(len(accepted) // 2)
                for _ in range(n_messages):
                    try:
                        received += await anext(messages)
                    except StopAsyncIteration:
                        break
                await messages.aclose()
                accepted += received[: len(received) * percent // 200 * 2]
                kept.forget(len(accepted) // 2)
        assert bytes(accepted) == whole
        assert kept.kept_from == len(whole) // 2

    run_virtual(run())


def test_a_microphone_goes_on_for_a_while_without_a_server() -> None:
    """And not for ever: nobody would hear it."""

    async def run() -> list[int]:
        n_read = 0

        async def speak() -> AsyncIterator[bytes]:
            nonlocal n_read
            while True:
                n_read += 1
                yield SECOND

        kept = KeptAudio(speak(), sample_rate_hz=RATE_HZ)
        counts: list[int] = []
        async with asyncio.TaskGroup() as tasks:
            filling = tasks.create_task(kept.fill())
            await asyncio.sleep(1)
            counts.append(n_read)
            messages = kept.read_from(0)
            await anext(messages)
            await anext(messages)
            await asyncio.sleep(1)
            counts.append(n_read)
            filling.cancel()
        return counts

    first, second = run_virtual(run())

    assert first == AHEAD_S
    assert second > first


def test_what_has_waited_comes_in_messages_that_a_server_takes() -> None:
    """Ten seconds at 48 kHz are close to the limit of one message."""

    async def run() -> list[int]:
        kept = KeptAudio(play([bytes(3 * SEND_BYTES_MAX)]), sample_rate_hz=48_000)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kept.fill())
            return [len(message) async for message in kept.read_from(0)]

    assert run_virtual(run()) == [SEND_BYTES_MAX] * 3
