"""Help pages that list a command's environment variables as its settings declare them."""

import importlib
from typing import Any

import click
import msgspec

from speechbus_runtime.settings import describe_settings

__all__ = ["VariablesCommand"]


class VariablesCommand(click.Command):
    """A command configured by a settings struct; `--help` names each variable.

    Args:
        settings: the struct, or `module:name` of it, which is imported for `--help` only.
        prefix: of its variables.
        options: as for `click.Command`.
    """

    def __init__(
        self,
        *,
        settings: type[msgspec.Struct] | str,
        prefix: str,
        **options: Any,  # noqa: ANN401  (click's own)
    ) -> None:
        super().__init__(**options)
        self._settings = settings
        self._prefix = prefix

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the variables above the epilog."""
        rows = [
            (
                described.variable,
                f"{described.summary}  {_spell_default(described.default)}".strip(),
            )
            for described in describe_settings(_load(self._settings), prefix=self._prefix)
        ]
        with formatter.section("Environment (each also as NAME_FILE, the path of a file)"):
            formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


def _spell_default(default: str | None) -> str:
    if default is None:
        return "[required]"
    return f"[{default}]" if default else ""


def _load(settings: type[msgspec.Struct] | str) -> type[msgspec.Struct]:
    if not isinstance(settings, str):
        return settings
    module, _, name = settings.partition(":")
    kind: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return kind
