"""How the native door refuses: a code and a sentence, then the connection is closed."""

from typing import Final

__all__ = ["DoorError", "overloaded"]

CLOSE_POLICY: Final = 1008
CLOSE_TRY_LATER: Final = 1013


class DoorError(Exception):
    """The client gets the code and the sentence, then the connection is closed."""

    def __init__(self, code: str, message: str, close_code: int = CLOSE_POLICY) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.close_code = close_code


def overloaded() -> DoorError:
    """Return the error of a bus that does not answer."""
    return DoorError(
        "overloaded",
        "The bus or the decoder does not answer. Try again in some seconds.",
        CLOSE_TRY_LATER,
    )
