import pytest

from speechbus_cli.main import main

SERVICES = ("ingest", "transcriber")
COMMANDS = ("dev", "transcribe", "watch", "doctor", "bootstrap", "health", "simulate", *SERVICES)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_teaches_its_use(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` is the manual: a sentence, an example, the variables, the exit codes."""
    assert main([command, "--help"]) == 0

    text = capsys.readouterr().out
    assert all(word in text for word in ("Example", "Environment", "Exit codes", "speechbus "))


def test_the_list_of_commands_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts rely on the names; each one's sentence must fit its line."""
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    lines = text.split("Commands:")[1].split("Start here")[0].splitlines()
    assert [line for line in lines if "..." in line] == []
    assert [name for name in COMMANDS if f"  {name} " not in text] == []


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["dev", "--once"], ["transcribe"], ["watch", "a.b"], ["dev", "--x"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts tell a wrong call from a failed one."""
    assert main(arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", [["transcribe", "talk.wav"], ["doctor"]])
@pytest.mark.parametrize("url", ["foo:bar", "ws://host:99999", "ws://[::1", "ws://host:8080/foo"])
def test_a_wrong_url_ends_with_2(
    command: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped address is the person's to mend; a traceback would look like a broken program."""
    assert main([*command, "--url", url]) == 2
    assert capsys.readouterr().err == (
        "speechbus: --url wants ws://HOST:PORT or wss://HOST:PORT.\n"
    )


def test_nothing_given_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who types the bare name wants to know what there is."""
    assert main([]) == 2
    assert "speechbus dev --demo" in capsys.readouterr().err
