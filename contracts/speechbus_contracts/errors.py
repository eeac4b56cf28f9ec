"""The one error of this package."""

__all__ = ["ContractError"]


class ContractError(ValueError):
    """Bytes or a name that the contract does not allow: drop the input, keep running.

    The text names the rule that was broken and never repeats the input, which may be speech.
    """
