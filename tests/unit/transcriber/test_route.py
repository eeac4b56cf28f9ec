"""Which provider is tried next, and when."""

from speechbus_transcriber.providers.interface import (
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from speechbus_transcriber.route import (
    BACKOFF_MAX_S,
    RATE_LIMITED_MAX_S,
    RATE_LIMITED_MIN_S,
    RETRY_AFTER_MAX_S,
    Route,
)

DOWN = ProviderUnavailableError("no_connection", provider="first")
REFUSED = ProviderRejectedError("bad_language", provider="first")


def test_a_provider_that_refuses_the_stream_is_not_asked_again() -> None:
    """Trying again would only cost time."""
    route = Route(["first", "second"])

    assert route.fail(REFUSED, now_s=1) == 0.0
    assert route.current == "second"
    route.fail(REFUSED, now_s=1)
    assert route.current is None


def test_the_third_failure_in_a_row_moves_on_to_the_next_provider_and_back_in_turn() -> None:
    """A provider that is down is left, and not given up for ever."""
    route = Route(["first", "second"])
    tried: list[str | None] = []
    for second in range(7):
        route.open()
        tried.append(route.current)
        route.fail(DOWN, now_s=second)

    assert tried == ["first"] * 3 + ["second"] * 3 + ["first"]


def test_waiting_grows_up_to_a_bound_when_there_is_nobody_else() -> None:
    """A provider that is down is not stormed, and is found again soon after it is back."""
    route = Route(["only"])
    waits = [route.fail(DOWN, now_s=0) for _ in range(6)]

    assert waits == sorted(waits)
    assert waits[0] < 1
    assert waits[-1] == BACKOFF_MAX_S
    assert route.current == "only"


def test_a_provider_that_gets_on_before_it_breaks_is_asked_again_at_once() -> None:
    """Ten breaks in a row cost ten short waits, not ten long ones; others are still preferred."""
    route = Route(["only"])
    waits: list[float] = []
    for number in range(10):
        route.open()
        route.hear(now_s=10.0 * number)
        waits.append(route.fail(DOWN, now_s=10.0 * number + 5, has_advanced=True))

    assert len(set(waits)) == 1
    assert waits[0] < 0.5


def test_a_provider_that_breaks_at_the_same_audio_again_and_again_is_asked_less_often() -> None:
    """It answers each time, and gets no further: a message that cannot be read, say."""
    route = Route(["only"])
    waits: list[float] = []
    for number in range(8):
        route.open()
        route.hear(now_s=number)
        waits.append(route.fail(DOWN, now_s=number + 0.5))

    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S


def test_a_session_that_lived_long_clears_the_failures_before_it() -> None:
    """Three breaks in a day are no reason to leave a provider."""
    route = Route(["first", "second"])
    for hour in range(5):
        route.open()
        route.hear(now_s=3600.0 * hour)
        route.fail(DOWN, now_s=3600.0 * hour + 60)

    assert route.current == "first"


def test_a_provider_that_never_answers_is_left_however_long_it_was_waited_for() -> None:
    """A time-out as long as a steady session must not count as one."""
    route = Route(["first", "second"])
    for attempt in range(3):
        route.open()
        route.fail(DOWN, now_s=60.0 * attempt)

    assert route.current == "second"


def test_case_11_no_room_is_nobodys_failure() -> None:
    """The next provider has the stream at once; alone, one waits longer each time, or as told."""
    full = ProviderRateLimitedError("http_409", provider="first")
    route = Route(["first", "second"])
    assert (route.fail(full, now_s=0), route.current, route.failures) == (0.0, "second", 0)
    assert (route.fail(full, now_s=0), route.current) == (RATE_LIMITED_MIN_S, "first")

    alone = Route(["only"])
    waits = [alone.fail(full, now_s=0) for _ in range(7)]
    assert waits == [1, 2, 4, 8, RATE_LIMITED_MAX_S, RATE_LIMITED_MAX_S, RATE_LIMITED_MAX_S]
    assert (alone.current, alone.failures) == ("only", 0)


def test_case_12_each_provider_is_left_alone_for_as_long_as_it_asked() -> None:
    """A route whose providers are all full is not asked about once a second."""
    route = Route(["first", "second"])
    asked: list[tuple[str | None, float]] = []
    now_s = 0.0
    for _ in range(8):
        is_first = route.current == "first"
        full = ProviderRateLimitedError(
            "http_429", provider="any", retry_after_s=20.0 if is_first else None
        )
        asked.append((route.current, now_s))
        now_s += route.fail(full, now_s=now_s)

    assert asked == [
        ("first", 0),
        ("second", 0),
        ("second", 1),
        ("second", 3),
        ("second", 7),
        ("second", 15),
        ("first", 20),
        ("second", 31),
    ]


def test_a_limit_ends_when_the_provider_answers_again() -> None:
    """The next refusal is a new one."""
    full = ProviderRateLimitedError("http_429", provider="only")
    route = Route(["only"])
    assert [route.fail(full, now_s=0), route.fail(full, now_s=1)] == [1, 2]
    route.open()
    route.hear(now_s=3)

    assert route.fail(full, now_s=60) == 1


def test_a_provider_that_is_down_is_not_left_for_one_that_is_known_to_be_full() -> None:
    """Of two that do not work, the one that may work first is asked first."""
    route = Route(["full", "down"])
    route.fail(ProviderRateLimitedError("http_429", provider="full", retry_after_s=30.0), now_s=0)
    for second in range(1, 7):
        assert route.current == "down"
        route.fail(DOWN, now_s=second)


def test_a_provider_may_say_when_to_return_but_not_forbid_it_for_hours() -> None:
    """Audio waits on the bus for 90 s."""
    route = Route(["only"])

    for asked_s, waited_s in ((3.0, 3.0), (86_400.0, RETRY_AFTER_MAX_S)):
        full = ProviderRateLimitedError("http_429", provider="only", retry_after_s=asked_s)
        assert route.fail(full, now_s=0) == waited_s
