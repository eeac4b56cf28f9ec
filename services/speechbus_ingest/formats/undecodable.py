"""What can be wrong with a client's encoded audio."""

from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["PROBLEMS", "Problem", "UndecodableError"]

Problem = Literal[
    "no_audio",
    "damaged",
    "truncated",
    "codec",
    "sample_rate",
    "channels",
    "changed",
    "costly",
    "crashed",
    "unannounced",
]
PROBLEMS: Final[Mapping[str, str]] = {
    "no_audio": "there is no audio in it",
    "damaged": "it is damaged, or of another format than was said",
    "truncated": "it ends in the middle",
    "codec": "its codec is not served",
    "sample_rate": "its sample rate is not between 8000 and 48000 Hz",
    "channels": "it has more than 8 channels, or not the number that was said",
    "changed": "another recording, sample rate or number of channels begins on the way",
    "costly": "it takes too much time or memory to decode",
    "crashed": "the decoder did not survive it",
    "unannounced": "the bus refused the stream when the first samples came",
}
"""In words, behind "The audio cannot be decoded:"."""


class UndecodableError(Exception):
    """The client's audio ends here; what came before is good. Nothing to try again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem: Problem = problem
