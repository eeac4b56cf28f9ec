import asyncio
from collections.abc import AsyncIterator

import pytest

from speechbus_cli.audio_input import pace_chunks


def test_the_pace_follows_a_schedule_and_does_not_drift() -> None:
    """A late chunk must not delay all chunks after it: live audio does not wait either."""
    asked_s: list[float] = []

    class Clock(asyncio.SelectorEventLoop):
        """Time passes only by sleeping, and by a reader that takes 0.3 s for the second chunk."""

        now_s = 100.0

        def time(self) -> float:
            return self.now_s

    async def chunks(loop: Clock) -> AsyncIterator[bytes]:
        for number in range(5):
            if number == 1:
                loop.now_s += 0.3
            yield bytes(3_200)

    async def play(loop: Clock) -> list[float]:
        handed_s: list[float] = []
        paced = pace_chunks(chunks(loop), sample_rate_hz=16_000, on_start=asked_s.append)
        async for _ in paced:
            handed_s.append(round(loop.now_s - 100.0, 3))
        return handed_s

    async def skip_ahead(seconds: float) -> None:
        loop.now_s += seconds

    loop = Clock()
    with pytest.MonkeyPatch.context() as patched, asyncio.Runner(loop_factory=lambda: loop) as run:
        patched.setattr("speechbus_cli.audio_input.asyncio.sleep", skip_ahead)
        handed_s = run.run(play(loop))

    # 0.1 s each; the second one is late by 0.2 s, the third and fourth are due at once.
    assert handed_s == [0.1, 0.4, 0.4, 0.4, 0.5]
    assert asked_s == [100.0]
