"""What Kotoba is asked for: everything, or what the oldest of its servers takes. Pure."""

__all__ = ["KotobaWishes"]


class KotobaWishes:
    """What the next session with one account asks for, learned from what was refused.

    An old server takes no `turn_detection` but false, and may refuse `timestamps` (providers.md
    1.1, 5.5). It does not say so before it is asked. A refusal may be about another field, such as
    the keywords of one stream: then it comes again without them, and all is asked for again.
    """

    def __init__(self) -> None:
        self.are_all = True
        """Whether that is turns and times."""

    def refuse(self, *, are_all: bool) -> bool:
        """A session was refused for its settings.

        Args:
            are_all: what it had asked for.

        Returns:
            Whether the next may have more luck.
        """
        self.are_all = not are_all
        return are_all
