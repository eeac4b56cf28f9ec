"""What `speechbus dev` takes from the environment."""

import pytest

from speechbus_cli.settings import default_providers


@pytest.mark.parametrize(
    ("environment", "providers"),
    [
        ({}, ("local", "echo")),
        ({"PALABRA_API_KEY": ""}, ("local", "echo")),
        ({"PALABRA_CLIENT_ID": "me"}, ("local", "echo")),
        ({"PALABRA_API_KEY": "k"}, ("palabra", "local", "echo")),
        ({"KOTOBA_API_KEY": "k"}, ("kotoba", "local", "echo")),
        ({"KOTOBA_API_KEY": "k", "PALABRA_API_KEY": "k"}, ("palabra", "kotoba", "local", "echo")),
        ({"PALABRA_API_KEY_FILE": "/run/secrets/k"}, ("palabra", "local", "echo")),
        (
            {"PALABRA_CLIENT_ID": "me", "PALABRA_CLIENT_SECRET_FILE": "/run/secrets/s"},
            ("palabra", "local", "echo"),
        ),
    ],
)
def test_an_account_puts_its_provider_first(
    environment: dict[str, str], providers: tuple[str, ...]
) -> None:
    """A key in the environment is all that it takes."""
    assert default_providers(environment) == providers
