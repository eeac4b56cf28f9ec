"""Scripts of the simulators: what they take, and what they say about the rest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.script import FAULT_KINDS, Fault, Script, ScriptError, Text, parse_script

PAGE = (Path(__file__).parents[3] / "docs" / "simulators.md").read_text(encoding="utf-8")


def test_an_empty_script_is_a_provider_that_works() -> None:
    """Nobody has to write one to begin."""
    assert parse_script(b"") == Script()


def test_a_script_says_texts_and_faults() -> None:
    """All of it by name."""
    script = parse_script(
        b"""
        mode = "text"
        texts = [{text = "good morning", ms = 1500}]
        [[faults]]
        kind = "close"
        session = 1
        after_ms = 700
        code = 1001
        """
    )

    assert script == Script(
        mode="text",
        texts=(Text(text="good morning", ms=1_500),),
        faults=(Fault(kind="close", session=1, after_ms=700, code=1001),),
    )


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"mode = ", "no TOML"),
        (b"\xff", "not UTF-8"),
        (b'mode = "tex"', "$.mode"),
        (b"latency = 3", "latency"),
        (b'[[faults]]\nkind = "explode"', "$.faults[0].kind"),
        (b'[[faults]]\nkind = "reset"\nwhen = 3', "when"),
        (b"sessions_max = -1", "$.sessions_max"),
        (b'mode = "text"', "[[texts]]"),
        (b" " * ((1 << 20) + 1), "at most"),
    ],
)
def test_a_mistake_is_named(content: bytes, hint: str) -> None:
    """A misspelt fault that never happens would make a test that cannot fail."""
    with pytest.raises(ScriptError) as caught:
        parse_script(content)

    assert hint in str(caught.value)


@given(content=st.binary(max_size=200))
def test_garbage_is_a_script_error_and_nothing_else(content: bytes) -> None:
    """The command ends with a sentence, not a traceback."""
    try:
        parse_script(content)
    except ScriptError:
        return


def test_the_page_tells_every_key_and_every_fault() -> None:
    """Integrators write scripts from it."""
    for kind in FAULT_KINDS:
        assert f"| `{kind}` |" in PAGE
    for struct in (Script, Fault, Text):
        for field in struct.__struct_fields__:
            assert f"`{field}`" in PAGE


def test_the_scripts_of_the_page_are_valid() -> None:
    """They are there to be copied."""
    blocks = PAGE.split("```toml\n")[1:]

    assert blocks
    for block in blocks:
        parse_script(block.partition("```")[0].encode())
