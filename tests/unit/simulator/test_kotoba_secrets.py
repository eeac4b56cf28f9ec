"""Client secrets of the simulated Kotoba."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_simulator.kotoba_secrets import GA_PATH, MINT_PATH, ClientSecrets
from speechbus_wire.kotoba import RequestError


class Backend:
    """Asks for secrets at a time that the test sets."""

    def __init__(self) -> None:
        numbers = count(1)
        self.now_s = 1_000.0
        self.secrets = ClientSecrets(
            ttl_s=600, now_s=lambda: self.now_s, token=lambda: f"token{next(numbers)}"
        )

    def mint(self, body: object = None, path: str = MINT_PATH) -> dict[str, Any]:
        """Ask for one."""
        answer = self.secrets.mint(path, b"" if body is None else json.dumps(body).encode())
        read: dict[str, Any] = json.loads(json.dumps(answer))
        return read


def test_a_secret_comes_with_a_session_as_openai_gives_it() -> None:
    """The seed's program reads `client_secret.value`."""
    answer = Backend().mint({"input_audio_sample_rate": 16_000})

    assert answer == {
        "id": "sess_token2",
        "object": "realtime.transcription_session",
        "expires_at": 0,
        "input_audio_format": "pcm16",
        "input_audio_sample_rate": 16_000,
        "input_audio_number_of_channels": 1,
        "input_audio_transcription": {
            "language": None,
            "target_language": None,
            "keywords": [],
            "kana": False,
            "timestamps": False,
        },
        "turn_detection": False,
        "client_secret": {"value": "ek_token1", "expires_at": 1_600},
    }


def test_the_newer_form_has_the_value_at_the_top() -> None:
    """And hands back the session that was asked for."""
    answer = Backend().mint(
        {"expires_after": {"anchor": "created_at", "seconds": 60}, "session": {"audio": {}}},
        GA_PATH,
    )

    assert (answer["value"], answer["expires_at"]) == ("ek_token1", 1_060)
    assert answer["session"]["type"] == "transcription"
    assert answer["session"]["audio"] == {}


def test_a_secret_is_good_once() -> None:
    """A page that connects again needs a new one."""
    backend = Backend()
    secret = backend.mint()["client_secret"]["value"]

    assert [backend.secrets.use(secret) for _ in range(3)] == [True, False, False]
    assert backend.secrets.use("ek_other") is None


@pytest.mark.parametrize("name", ["expires_after", "expires_at"])
def test_a_secret_is_good_as_long_as_was_asked(name: str) -> None:
    """Not a second longer."""
    for late_s, is_good in ((29.9, True), (30.0, False)):
        backend = Backend()
        wishes = {name: {"anchor": "created_at", "seconds": 30}}
        secret = backend.mint({"client_secret": wishes})["client_secret"]["value"]
        backend.now_s += late_s
        assert backend.secrets.use(secret) is is_good


def test_old_secrets_are_forgotten() -> None:
    """Memory is bounded."""
    backend = Backend()
    first, *_, last = (backend.mint()["client_secret"]["value"] for _ in range(1_001))

    assert backend.secrets.use(first) is None
    assert backend.secrets.use(last) is True


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[]", "invalid_parameters"),
        (b'{"client_secret":{"expires_after":{"seconds":9}}}', "invalid_parameters"),
        (b'{"input_audio_sample_rate":"x"}', "invalid_parameters"),
    ],
)
def test_a_wrong_request_has_a_code_of_the_vendors_table(body: bytes, code: str) -> None:
    """Clients act on it."""
    with pytest.raises(RequestError) as caught:
        Backend().secrets.mint(MINT_PATH, body)

    assert caught.value.code == code


@given(body=st.binary(max_size=100), path=st.sampled_from([MINT_PATH, GA_PATH]))
def test_garbage_is_a_known_error_and_nothing_else(body: bytes, path: str) -> None:
    """Whatever a client sends."""
    try:
        Backend().secrets.mint(path, body)
    except RequestError:
        return
