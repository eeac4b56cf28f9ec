"""Damaged inputs, the same for the same seed."""

import random

__all__ = ["mutate"]


def mutate(data: bytes, seed: random.Random) -> bytes:
    """Flip, cut, insert or repeat something, half of the time near the beginning."""
    changed = bytearray(data)
    for _ in range(seed.randint(1, 5)):
        at = seed.randrange(len(changed) + 1) if seed.random() < 0.5 else seed.randrange(200)
        at = min(at, len(changed))
        match seed.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([seed.randrange(256)])
            case 1:
                del changed[at : at + seed.randint(1, 40)]
            case 2:
                changed[at:at] = seed.randbytes(seed.randint(1, 40))
            case 3:
                changed[at:at] = changed[at : at + seed.randint(1, 400)]
            case _:
                changed[at : at + 8] = b"\xff" * 8
    if seed.random() < 0.2:
        del changed[seed.randrange(len(changed) + 1) :]
    return bytes(changed)
