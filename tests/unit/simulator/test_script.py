"""Scripts of the simulators: what they take, and what they say about the rest."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.script import (
    FAULT_KEYS,
    FAULT_KINDS,
    Fault,
    Provider,
    Script,
    ScriptError,
    Text,
    parse_script,
)

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "simulators.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples" / "simulators").glob("*.toml"))
PROVIDERS: tuple[Provider, ...] = get_args(Provider)


def test_an_empty_script_is_a_provider_that_works() -> None:
    """Nobody has to write one to begin."""
    assert parse_script(b"", provider="palabra") == Script()


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
        """,
        provider="kotoba",
    )

    assert script == Script(
        mode="text",
        texts=(Text(text="good morning", ms=1_500),),
        faults=(Fault(kind="close", session=1, after_ms=700, code=1001),),
    )


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"mode = = 3", "at line 1"),
        (b"\xff", "not UTF-8"),
        (b"a = " + b"[" * 5_000, "no TOML|nested too deeply"),
        (b'mode = "tex"', r"\$\.mode"),
        (b"latency = 3", "latency"),
        (b'[[faults]]\nkind = "explode"', r"\$\.faults\[0\]\.kind"),
        (b'[[faults]]\nkind = "reset"\nwhen = 3', r"when.*\$\.faults\[0\]"),
        (b"sessions_max = -1", r"\$\.sessions_max"),
        (b'mode = "text"', r"\$\.texts"),
        (b'mode = "text"\ntexts = [{text = "a", ms = 20}]\nsegment_ms = 99', r"\$\.segment_ms"),
        (b'texts = [{text = "a", ms = 20}]', r'\$\.texts.*mode = "text"'),
        (b"secret_ttl_s = 9", r"\$\.secret_ttl_s.*kotoba"),
        (b'[[faults]]\nkind = "reset"\ncode = 1000', r"\$\.faults\[0\].*`code`.*It has: after_ms"),
        (b'[[faults]]\nkind = "refuse"\nafter_ms = 9', r"\$\.faults\[0\].*`after_ms`"),
        (b'[[faults]]\nkind = "mute"\nlanguage = "es"', r"\$\.faults\[0\].*`language`"),
        (b'[[faults]]\nkind = "refuse"\nfor_s = 9', r"\$\.faults\[0\].*`for_s`"),
        (b'faults = [{kind = "mute"}, {kind = "other_id"}]', r"\$\.faults\[1\].*palabra"),
        (b'[[faults]]\nkind = "close"\ncode = 1006', r"\$\.faults\[0\].*1006.*reset"),
        (b'[[faults]]\nkind = "close"\ncode = 2000', r"\$\.faults\[0\].*2000"),
        (b" " * ((1 << 20) + 1), "at most"),
    ],
)
def test_a_mistake_is_named(content: bytes, hint: str) -> None:
    """A misspelt fault that never happens would make a test that cannot fail."""
    with pytest.raises(ScriptError, match=hint):
        parse_script(content, provider="palabra")


@pytest.mark.parametrize("key", ["client_id", "client_secret", "idle_ms", "session_ttl_s"])
def test_what_means_nothing_to_kotoba_is_a_mistake(key: str) -> None:
    """Its limits have other names."""
    value = '"me"' if key.startswith("client") else "9"
    with pytest.raises(ScriptError, match=rf"\$\.{key}.*palabra"):
        parse_script(f"{key} = {value}".encode(), provider="kotoba")


@given(content=st.binary(max_size=200), provider=st.sampled_from(PROVIDERS))
def test_garbage_is_a_script_error_and_nothing_else(content: bytes, provider: Provider) -> None:
    """The command ends with a sentence, not a traceback."""
    try:
        parse_script(content, provider=provider)
    except ScriptError:
        return


def test_the_page_tells_every_key_and_every_fault() -> None:
    """Integrators write scripts from it."""
    for kind in FAULT_KINDS:
        keys = FAULT_KEYS.get(kind, frozenset({"after_ms"}))
        order = [field for field in Fault.__struct_fields__ if field in keys]
        cell = ", ".join(f"`{key}`" for key in order)
        assert f"| `{kind}` | {cell} |".replace("|  |", "| |") in PAGE
    for struct in (Script, Fault, Text):
        for field in struct.__struct_fields__:
            assert f"`{field}`" in PAGE


def accepting(content: bytes) -> list[Provider]:
    """Whose simulators take a script."""
    takers: list[Provider] = []
    for provider in PROVIDERS:
        try:
            parse_script(content, provider=provider)
        except ScriptError:
            continue
        takers.append(provider)
    return takers


def test_the_scripts_of_the_page_are_valid() -> None:
    """They are there to be copied."""
    blocks = PAGE.split("```toml\n")[1:]

    assert blocks
    for block in blocks:
        assert accepting(block.partition("```")[0].encode())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_scripts_are_valid_and_say_how_to_run_them(path: Path) -> None:
    """The name says whose they are."""
    content = path.read_bytes()
    provider = path.stem.partition("_")[0]

    assert provider in accepting(content)
    usage = f"# speechbus simulate {provider} --script examples/simulators/{path.name}\n"
    assert content.decode().startswith(usage)
