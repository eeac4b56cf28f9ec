"""What every request passes before a door sees it."""

import json
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from speechbus_ingest.gate.addresses import Proxies, UnknownNetworkError
from speechbus_ingest.gate.failures import ADDRESSES_MAX, WINDOW_S, AuthenticationFailures
from speechbus_ingest.gate.gatekeeper import Gatekeeper
from speechbus_ingest.gate.origins import Origins, UnknownOriginError
from speechbus_ingest.keys import KeyRing
from speechbus_ingest.token_secrets import TokenSecrets
from speechbus_wire.kotoba_secrets import SecretClaims, sign_secret
from speechbus_wire.palabra_sessions import SessionClaims, sign_token

SECRET = b"thirty-two characters at the least"
FORMER = b"thirty-two characters of last year"


# --- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # no proxy of ours: it may say anything
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the left one is invented
        ("10.1.2.3", "203.0.113.9, 10.9.9.9", "203.0.113.9"),  # two proxies
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.1.2.3", "nobody", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9, nobody", "10.1.2.3"),
        ("::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", ", ".join(["10.0.0.1"] * 1_000), "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_say_where_a_client_is(peer: str, forwarded: str, client: str) -> None:
    """Else anybody could take another one's address, or a new one for each guess."""
    headers = [(b"x-forwarded-for", forwarded.encode())]

    assert Proxies(["10.0.0.0/8"]).find_client(peer, headers) == client


@given(forwarded=st.text(), networks=st.sampled_from([[], ["::/0", "0.0.0.0/0"]]))
def test_no_header_breaks_it(forwarded: str, networks: list[str]) -> None:
    """It stands before everything else."""
    header = [(b"x-forwarded-for", forwarded.encode(errors="replace"))]

    assert Proxies(networks).find_client("192.0.2.1", header)


def test_tls_of_a_client_is_known_from_a_trusted_proxy_only() -> None:
    """The last proxy's word counts."""
    proxies = Proxies(["10.0.0.1"])
    secure = [(b"x-forwarded-proto", b"http, https")]

    assert proxies.is_secure("10.0.0.1", secure)
    assert not proxies.is_secure("10.0.0.2", secure)
    assert not proxies.is_secure("10.0.0.1", [(b"x-forwarded-proto", b"https, http")])


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "proxy.example", "", "*"])
def test_what_is_no_network_is_refused_and_not_repeated(entry: str) -> None:
    """The place in the list is told: an address is nobody's secret, but a key that slipped is."""
    with pytest.raises(UnknownNetworkError, match=r"^entry 2 is no address and no network$"):
        Proxies(["10.0.0.1", entry])


# --- failures ----------------------------------------------------------------------------------


def test_an_address_may_fail_so_often_in_a_minute() -> None:
    """Then it waits for the rest of it."""
    failures = AuthenticationFailures(3)
    for at_s in (0.0, 1.0, 2.0):
        assert failures.retry_after_s("a", now_s=at_s) == 0
        failures.count("a", now_s=at_s)

    assert failures.retry_after_s("a", now_s=20.0) == 40.0
    assert failures.retry_after_s("b", now_s=20.0) == 0
    assert failures.retry_after_s("a", now_s=WINDOW_S) == 0
    failures.count("a", now_s=WINDOW_S)
    assert failures.retry_after_s("a", now_s=WINDOW_S) == 0


def test_the_table_of_failures_is_bounded() -> None:
    """Who has a whole network of addresses must not fill the memory."""
    failures = AuthenticationFailures(1)
    for number in range(ADDRESSES_MAX + 5):
        failures.count(str(number), now_s=0.0)

    assert len(failures) == ADDRESSES_MAX
    assert failures.retry_after_s("0", now_s=0.0) == 0
    assert failures.retry_after_s(str(ADDRESSES_MAX), now_s=0.0) > 0


def test_an_ipv6_line_is_one_address() -> None:
    """Its owner has 2**64 of them, one for each guess, and would push all others out."""
    failures = AuthenticationFailures(2)
    for number in range(ADDRESSES_MAX + 5):
        failures.count(f"2001:db8:0:1:{number:x}::1", now_s=0.0)

    assert len(failures) == 1
    assert failures.retry_after_s("2001:db8:0:1::7", now_s=0.0) > 0
    assert failures.retry_after_s("2001:db8:0:2::7", now_s=0.0) == 0
    failures.count("::ffff:192.0.2.1", now_s=0.0)
    failures.count("192.0.2.1", now_s=0.0)
    assert failures.retry_after_s("192.0.2.1", now_s=0.0) > 0


# --- origins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "is_secure", "is_allowed"),
    [
        (None, "bus.example", False, True),  # no browser
        ("https://app.example", "bus.example", True, True),
        ("https://app.example:443", "bus.example", True, True),
        ("https://APP.example", "bus.example", True, True),
        ("http://app.example", "bus.example", True, False),
        ("https://app.example:8443", "bus.example", True, False),
        ("https://app.example.evil.example", "bus.example", True, False),
        ("https://evil.example", "bus.example", True, False),
        ("http://bus.example:8080", "bus.example:8080", False, True),  # its own page
        ("https://bus.example", "bus.example", True, True),
        ("http://bus.example", "bus.example", True, False),
        ("null", "bus.example", False, False),  # a sandboxed frame, a file
        ("", "bus.example", False, False),
        ("https://[::1", "bus.example", False, False),
        ("http://evil.example:x", "bus.example", False, False),
    ],
)
def test_pages_of_other_origins_stay_out(
    origin: str | None,
    host: str,
    is_secure: bool,  # noqa: FBT001
    is_allowed: bool,  # noqa: FBT001
) -> None:
    """As far as a list is set."""
    origins = Origins(["https://app.example"])

    assert origins.allows(origin, host=host, is_secure=is_secure) is is_allowed
    assert Origins(["*"]).allows(origin, host=host, is_secure=is_secure)


@pytest.mark.parametrize("entry", ["app.example", "https://app.example/", "ftp://x", "https://"])
def test_what_is_no_origin_is_refused(entry: str) -> None:
    """A slash too many would let nobody in, silently."""
    with pytest.raises(UnknownOriginError, match="entry 1"):
        Origins([entry])


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("localhost:8080", True),
        ("bus.localhost", True),
        ("ingest:8080", True),
        ("app.example", True),
        ("evil.example:8080", False),
        ("", False),
    ],
)
def test_a_foreign_name_is_recognized(host: str, is_ours: bool) -> None:  # noqa: FBT001
    """DNS rebinding: a page of that name would be let in by the browser."""
    assert Origins(["*", "https://app.example"]).may_be_called(host) is is_ours


# --- the gate ----------------------------------------------------------------------------------


class Clock:
    """Moved by the test."""

    now_s = 0.0


def build(
    clock: Clock | None = None,
    *,
    origins: Sequence[str] = ("*",),
    is_rebindable: bool = False,
    count_refusal: Callable[[int], None] = lambda _status: None,
) -> Gatekeeper:
    """A gate that knows `acme`'s key, and trusts 10.0.0.1."""
    clock = clock or Clock()
    return Gatekeeper(
        KeyRing([("acme", "good")]),
        TokenSecrets(SECRET, FORMER),
        failures=AuthenticationFailures(2),
        proxies=Proxies(["10.0.0.1"]),
        origins=Origins(origins),
        is_rebindable=is_rebindable,
        now_s=lambda: clock.now_s,
        count_refusal=count_refusal,
    )


def ask(
    path: str = "/v1/streams", peer: str = "10.0.0.1", query: str = "", **headers: str
) -> Scope:
    """A request."""
    named: Mapping[str, str] = {"host": "bus.example", **headers}
    return {
        "type": "http",
        "scheme": "http",
        "path": path,
        "client": ("10.0.0.1", 4711),
        "query_string": b"",
        "subprotocols": [],
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in named.items()
        ],
    }


def fail(gate: Gatekeeper, times: int, client: str = "203.0.113.9") -> None:
    """Somebody guesses."""
    for _ in range(times):
        scope = ask(x_forwarded_for=client, authorization="Bearer wrong")
        assert gate.check(scope) is None
        gate.note_refusal(scope, 401)


def test_whoever_fails_too_often_is_sent_away_unseen() -> None:
    """Until a minute is over; others are not concerned."""
    clock = Clock()
    gate = build(clock)
    fail(gate, 2)
    clock.now_s = 20.5

    refusal = gate.check(ask(x_forwarded_for="203.0.113.9", authorization="Bearer wrong"))
    assert refusal is not None
    assert (refusal.status, refusal.retry_after_s) == (429, 40)
    assert (b"retry-after", b"40") in refusal.headers
    assert json.loads(refusal.body)["code"] == "too_many_failures"
    assert gate.check(ask(x_forwarded_for="203.0.113.8", authorization="Bearer wrong")) is None
    clock.now_s = 60.0
    assert gate.check(ask(x_forwarded_for="203.0.113.9", authorization="Bearer wrong")) is None


def sign_session(secret: bytes) -> str:
    """A session token of Palabra's door."""
    return sign_token(SessionClaims(tenant="acme", session_id="s", expires_at_s=1), secret)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer good"},
        {"authorization": f"Bearer {sign_session(SECRET)}"},
        {"authorization": f"Bearer {sign_session(FORMER)}"},
        {
            "authorization": "Bearer "
            + sign_secret(SecretClaims(tenant="acme", stream_id="s", expires_at_s=1), SECRET)
        },
        {"clientid": "acme", "clientsecret": "good"},
        {},  # the page, the probes
    ],
)
def test_good_clients_behind_the_same_proxy_notice_nothing(headers: dict[str, str]) -> None:
    """Whatever kind of credential they have; an expired one is the door's to explain."""
    gate = build()
    fail(gate, 2)

    assert gate.check(ask(x_forwarded_for="203.0.113.9", **headers)) is None


def test_refusals_are_counted_whoever_refuses() -> None:
    """The doors, and the gate itself; what is no refusal is not."""
    counted: list[int] = []
    gate = build(origins=["https://app.example"], count_refusal=counted.append)
    fail(gate, 2)
    gate.check(ask(x_forwarded_for="203.0.113.9", authorization="Bearer wrong"))
    gate.check(ask(origin="https://evil.example"))
    gate.check(ask())
    for status in (200, 404, 429):
        gate.note_refusal(ask(), status)

    assert counted == [401, 401, 429, 403, 429]


def test_an_upgrade_without_credentials_is_no_better_than_one_with_wrong_ones() -> None:
    """Every WebSocket needs some."""
    gate = build()
    fail(gate, 2)

    refusal = gate.check(ask(x_forwarded_for="203.0.113.9"), is_upgrade=True)
    assert refusal is not None
    assert refusal.status == 429


def test_other_answers_are_no_failures() -> None:
    """Who has a key and makes mistakes is known."""
    gate = build()
    for status in (400, 403, 404, 409, 429, 503) * 5:
        gate.note_refusal(ask(x_forwarded_for="203.0.113.9"), status)

    assert gate.check(ask(authorization="Bearer wrong"), is_upgrade=True) is None


@pytest.mark.parametrize(
    ("path", "beginning"),
    [
        ("/v1/streams", b'{"type":"error","code":"too_many_failures","message":"'),
        ("/v1/realtime", b'{"error":{"type":"limitation","code":"rate_limit_error","message":"'),
        ("/me/kotoba-streaming-stt/v1/realtime", b'{"error":{"type":"limitation"'),
        ("/asr/v1/speech-to-text/stream", b'{"ok":false,"errors":[{"type":"about:blank"'),
        ("/session-storage/session", b'{"ok":false,"errors":[{"type":"about:blank","status":429'),
    ],
)
def test_a_refusal_has_the_form_of_its_door(path: str, beginning: bytes) -> None:
    """Clients show what they understand."""
    gate = build()
    fail(gate, 2)

    refusal = gate.check(ask(path, x_forwarded_for="203.0.113.9", authorization="Bearer wrong"))
    assert refusal is not None
    assert refusal.body.startswith(beginning), refusal.body


def test_pages_of_other_origins_are_refused_before_any_door() -> None:
    """On every path, in every method."""
    gate = build(origins=["https://app.example"])

    refusal = gate.check(ask(origin="https://evil.example", authorization="Bearer good"))
    assert refusal is not None
    assert (refusal.status, json.loads(refusal.body)["code"]) == (403, "origin_refused")
    assert gate.check(ask(origin="https://app.example")) is None
    secure = ask(origin="https://bus.example", x_forwarded_proto="https")
    assert gate.check(secure) is None  # its own page, behind a proxy with TLS


def test_what_needs_no_key_is_not_shown_to_a_page_of_a_foreign_name() -> None:
    """Only where that is a danger."""
    refusal = build(is_rebindable=True).check(ask())
    assert refusal is not None
    assert refusal.status == 421
    assert build(is_rebindable=True).check(ask(host="127.0.0.1:8080")) is None
    assert build().check(ask()) is None
