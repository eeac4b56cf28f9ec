import copy
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from speechbus_runtime.settings import (
    Secret,
    SettingDescription,
    SettingMistake,
    SettingsError,
    describe_settings,
    read_settings,
)

PREFIX = "SPEECHBUS_POOL_"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field of each kind."""

    nats_url: str
    """Address of the bus.

    More about it.
    """
    sessions_max: Annotated[int, Meta(ge=1, le=500)] = 32
    """Streams one worker may hold."""
    lease_s: Annotated[float, Meta(gt=0)] = 15.0
    json_lines: bool = True
    region: str | None = None
    providers: tuple[str, ...] = ("local",)
    labels: dict[str, str] = {}
    log_level: Literal["DEBUG", "INFO"] = "INFO"
    key: Secret | None = None
    keys: tuple[tuple[str, Secret], ...] = ()
    acme_key: Annotated[Secret, Meta(extra={"variable": "ACME_API_KEY"})] = Secret("")


def read(**variables: str) -> Settings:
    """Read settings from variables without their prefix; the address is always there."""
    environ = {f"{PREFIX}{name}": text for name, text in variables.items()}
    return read_settings(
        Settings, prefix=PREFIX, environ={f"{PREFIX}NATS_URL": "nats://bus", **environ}
    )


def mistakes_of(**variables: str) -> list[str]:
    """Return the lines of the error that these variables cause."""
    with pytest.raises(SettingsError) as raised:
        read(**variables)
    return str(raised.value).split("\n")


def test_each_variable_becomes_a_value_of_its_type() -> None:
    """The rest of the program gets plain values and never parses a text again."""
    settings = read(
        SESSIONS_MAX=" 12 ",
        LEASE_S="2.5",
        JSON_LINES="off",
        REGION="eu",
        PROVIDERS="kotoba, palabra,",
        LABELS="zone:a, url:http://x:1",
        LOG_LEVEL="DEBUG",
        KEY="k",
        KEYS="acme:one,acme:two",
    )

    assert settings == Settings(
        nats_url="nats://bus",
        sessions_max=12,
        lease_s=2.5,
        json_lines=False,
        region="eu",
        providers=("kotoba", "palabra"),
        labels={"zone": "a", "url": "http://x:1"},
        log_level="DEBUG",
        key=Secret("k"),
        keys=(("acme", Secret("one")), ("acme", Secret("two"))),
    )


def test_an_empty_variable_counts_as_not_set() -> None:
    """Compose files pass variables that are not set as empty ones."""
    assert read(SESSIONS_MAX="", REGION=" ", KEY_FILE="") == Settings(nats_url="nats://bus")


def test_all_mistakes_come_together() -> None:
    """Who deploys fixes them in one go instead of one per restart."""
    with pytest.raises(SettingsError) as raised:
        read_settings(
            Settings,
            prefix=PREFIX,
            environ={
                f"{PREFIX}SESSIONS_MAX": "many",
                f"{PREFIX}LEASE_S": "0",
                f"{PREFIX}SESSION_MAX": "5",
                f"{PREFIX}COLOUR": "red",
                "SPEECHBUS_OTHER_COLOUR": "red",
            },
        )

    assert str(raised.value).split("\n") == [
        f"{PREFIX}NATS_URL is required and not set; write a text (Address of the bus.)",
        f"{PREFIX}SESSIONS_MAX is not a whole number; "
        "write a whole number from 1 to 500 (Streams one worker may hold.)",
        f"{PREFIX}LEASE_S is outside the possible range; write a number above 0",
        f"{PREFIX}COLOUR is not a setting; remove it",
        f"{PREFIX}SESSION_MAX is not a setting; did you mean {PREFIX}SESSIONS_MAX?",
    ]
    assert raised.value.mistakes[3] == SettingMistake(
        f"{PREFIX}COLOUR", "is not a setting", "remove it"
    )


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("SESSIONS_MAX", "501", "is outside the possible range"),
        ("SESSIONS_MAX", "1_0", "is not a whole number"),
        ("SESSIONS_MAX", "9" * 5000, "is not a whole number"),
        ("LEASE_S", "nan", "is not a finite number"),
        ("LEASE_S", "soon", "is not a number"),
        ("JSON_LINES", "maybe", "is neither true nor false"),
        ("LOG_LEVEL", "info", "is none of the possible values"),
        ("LABELS", "zone", "has an entry without a colon"),
        ("LABELS", "zone:a,zone:b", "names an entry twice"),
        ("KEYS", "acme:", "has an entry with nothing on one side of the colon"),
        ("KEY_FILE", "/nowhere/at/all", "names a file that cannot be read (FileNotFoundError)"),
        ("KEY_FILE", "a\0b", "names a file that cannot be read (ValueError)"),
    ],
)
def test_a_wrong_value_is_named_and_never_quoted(name: str, text: str, problem: str) -> None:
    """A key may stand in the wrong variable; the error text reaches logs and tickets."""
    (line,) = mistakes_of(**{name: text})

    assert line.startswith(f"{PREFIX}{name} {problem}; write ")
    assert text not in line


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """Docker and Kubernetes mount secrets as files, often with a line end."""
    file = tmp_path / "key"
    file.write_text("hush\n")

    assert read(KEY_FILE=str(file)).key == Secret("hush")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b" \n", "names an empty file"),
        (b"\xff\xfe", "names a file that is not UTF-8 text"),
        (b"x" * 65_537, "names a file of more than 65536 bytes"),
    ],
)
def test_a_file_without_a_value_is_a_mistake(tmp_path: Path, content: bytes, problem: str) -> None:
    """An empty mounted secret would otherwise start a service that lets nobody in, or everybody."""
    file = tmp_path / "key"
    file.write_bytes(content)

    assert mistakes_of(KEY_FILE=str(file))[0].startswith(f"{PREFIX}KEY_FILE {problem};")


def test_a_variable_and_its_file_exclude_each_other() -> None:
    """Nobody could tell which of the two holds."""
    assert mistakes_of(KEY="a", KEY_FILE="/b") == [
        f"{PREFIX}KEY and {PREFIX}KEY_FILE are both set; keep one of them"
    ]


def test_a_field_may_have_a_variable_of_its_own() -> None:
    """Providers' keys have the names that the providers gave them."""
    environ = {f"{PREFIX}NATS_URL": "nats://bus", "ACME_API_KEY": "hush", "ACME_OTHER": "x"}

    assert read_settings(Settings, prefix=PREFIX, environ=environ).acme_key == Secret("hush")


def test_variables_that_kubernetes_adds_are_no_mistakes() -> None:
    """A Service named like our prefix would otherwise keep each pod from starting."""
    settings = read(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT_HTTP="8080",
        PORT="tcp://10.0.0.1:8080",
        PORT_8080_TCP="tcp://10.0.0.1:8080",
        PORT_8080_TCP_ADDR="10.0.0.1",
    )

    assert settings == Settings(nats_url="nats://bus")


def test_settings_that_do_not_fit_each_other_are_a_mistake() -> None:
    """A struct may check what no single field can."""

    class Window(msgspec.Struct, frozen=True, kw_only=True):
        first: int = 1
        last: int = 2

        def __post_init__(self) -> None:
            if self.first > self.last:
                raise ValueError("FIRST is above LAST\nFIRST has no room")

    with pytest.raises(SettingsError) as raised:
        read_settings(Window, prefix="W_", environ={"W_FIRST": "3"})

    assert str(raised.value) == "W_FIRST is above W_LAST\nW_FIRST has no room"
    assert len(raised.value.mistakes) == 2


def test_a_struct_that_no_environment_can_fill_is_refused() -> None:
    """Mistakes in the code show at the first start, not when somebody sets the variable."""

    class Odd(msgspec.Struct, frozen=True, kw_only=True):
        content: bytes = b""

    class Twice(msgspec.Struct, frozen=True, kw_only=True):
        key: str = ""
        key_file: str = ""

    class Loose(msgspec.Struct, kw_only=True):
        key: str = ""

    for kind in (Odd, Twice, Loose):
        with pytest.raises(TypeError):
            read_settings(kind, prefix="X_", environ={})


def test_a_secret_is_shown_nowhere() -> None:
    """Settings end up in tracebacks, logs and JSON."""
    secret = Secret("hush")
    settings = Settings(nats_url="nats://bus", key=secret)

    assert (str(secret), repr(secret), f"{secret:>5}") == ("***", "***", "  ***")
    assert "hush" not in repr(settings)
    assert secret.reveal() == "hush"
    for encode in (msgspec.json.encode, pickle.dumps):
        with pytest.raises(TypeError):
            encode(secret)
    with pytest.raises(AttributeError):
        secret.reveal = lambda: ""  # type: ignore[method-assign]


def test_secrets_are_values() -> None:
    """Settings are compared, copied and used as keys."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert {Secret("a"): 1}[copy.deepcopy(Secret("a"))] == 1
    assert (bool(Secret("")), bool(Secret("a"))) == (False, True)


def test_help_lists_what_the_fields_say() -> None:
    """The help text is made from the struct, so that it cannot fall behind."""
    described = list(describe_settings(Settings, PREFIX, summaries={"region": "Where it runs."}))

    assert described[:3] == [
        SettingDescription(f"{PREFIX}NATS_URL", None, "a text", "Address of the bus."),
        SettingDescription(
            f"{PREFIX}SESSIONS_MAX",
            "32",
            "a whole number from 1 to 500",
            "Streams one worker may hold.",
        ),
        SettingDescription(f"{PREFIX}LEASE_S", "15.0", "a number above 0", ""),
    ]
    assert {each.variable.removeprefix(PREFIX): each.default for each in described[3:]} == {
        "JSON_LINES": "true",
        "REGION": "",
        "PROVIDERS": "local",
        "LABELS": "",
        "LOG_LEVEL": "INFO",
        "KEY": "",
        "KEYS": "",
        "ACME_API_KEY": "",
    }
    assert described[4].summary == "Where it runs."


def test_help_shows_no_secret() -> None:
    """A default key would be odd, but printing it would be worse."""

    class WithDefaults(msgspec.Struct, frozen=True, kw_only=True):
        keys: tuple[tuple[str, Secret], ...] = (("dev", Secret("hush")),)
        more: dict[str, Secret] = msgspec.field(default_factory=lambda: {"dev": Secret("hush")})

    assert [each.default for each in describe_settings(WithDefaults, "X_")] == ["dev:***"] * 2


@given(
    variables=st.dictionaries(
        st.sampled_from([field.upper() for field in Settings.__struct_fields__] + ["KEY_FILE"]),
        st.text(st.characters(blacklist_characters="\0")),
    )
)
def test_any_environment_gives_settings_or_a_settings_error(variables: dict[str, str]) -> None:
    """Nothing that stands in a variable ends a service with a traceback."""
    with suppress(SettingsError):
        settings = read(**variables)

        assert 1 <= settings.sessions_max <= 500


WORDS = st.from_regex(r"[a-z]{1,9}", fullmatch=True)


@given(
    value=st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.lists(WORDS, min_size=1).map(tuple)
    | st.dictionaries(WORDS, WORDS, min_size=1)
)
def test_what_help_shows_reads_back_as_the_same_value(value: object) -> None:
    """A default can be copied from the help text into a variable."""
    kinds: dict[type, object] = {tuple: tuple[str, ...], dict: dict[str, str]}
    kind = kinds.get(type(value), type(value))
    required = msgspec.defstruct("Required", [("field", kind)], frozen=True)
    with_default = msgspec.defstruct(
        "WithDefault",
        [("field", kind, msgspec.field(default_factory=lambda: value))],
        frozen=True,
    )
    (described,) = describe_settings(with_default, "X_")
    environ = {described.variable: described.default or ""}

    assert read_settings(required, prefix="X_", environ=environ) == required(value)
