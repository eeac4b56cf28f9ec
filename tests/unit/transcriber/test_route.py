"""Which provider is tried next, and when."""

from speechbus_transcriber.providers.interface import (
    ProviderRateLimitedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from speechbus_transcriber.route import BACKOFF_MAX_S, BACKOFF_MIN_S, Route

DOWN = ProviderUnavailableError("no_connection", provider="first")
REFUSED = ProviderRejectedError("bad_language", provider="first")
FULL = ProviderRateLimitedError("http_429", provider="first")


def open_next(route: Route) -> str:
    """Open a session at the first that will do, as where everybody has room."""
    name = route.order[0]
    route.open(name)
    return name


def test_a_provider_that_refuses_the_stream_is_not_asked_again() -> None:
    """Trying again would only cost time."""
    route = Route(["first", "second"])
    open_next(route)

    assert route.fail(REFUSED, now_s=1) == 0.0
    assert open_next(route) == "second"
    route.fail(REFUSED, now_s=1)
    assert route.order == ()


def test_the_third_failure_in_a_row_moves_on_to_the_next_provider_and_back_in_turn() -> None:
    """A provider that is down is left, and not given up for ever."""
    route = Route(["first", "second"])
    tried: list[str] = []
    for second in range(13):
        tried.append(open_next(route))
        route.fail(DOWN, now_s=second)

    assert tried == (["first"] * 3 + ["second"] * 3) * 2 + ["first"]


def test_the_first_provider_is_asked_first_again_when_another_one_has_got_further() -> None:
    """At the next change of sessions: whatever ailed it may be over, or lie behind."""
    route = Route(["first", "second"])
    for second in range(3):
        open_next(route)
        route.fail(DOWN, now_s=second)
    assert open_next(route) == "second"
    route.hear(now_s=3)
    assert route.order == ("second", "first")
    route.fail(DOWN, now_s=5, has_advanced=True)

    assert route.order == ("first", "second")


def test_waiting_grows_up_to_a_bound_when_there_is_nobody_else() -> None:
    """A provider that is down is not stormed, and is found again soon after it is back."""
    route = Route(["only"])
    waits = [route.fail(DOWN, now_s=0) for _ in range(2_000)]

    assert waits == sorted(waits)
    assert waits[0] < 0.1
    assert waits[-1] == BACKOFF_MAX_S
    assert route.order == ("only",)


def test_a_provider_that_gets_on_before_it_breaks_is_asked_again_at_once() -> None:
    """Ten breaks in a row cost ten short waits, not ten long ones; others are still preferred."""
    route = Route(["only"])
    waits: list[float] = []
    for number in range(10):
        open_next(route)
        route.hear(now_s=10.0 * number)
        waits.append(route.fail(DOWN, now_s=10.0 * number + 5, has_advanced=True))

    assert len(set(waits)) == 1
    assert waits[0] < 0.5


def test_a_provider_that_breaks_at_the_same_audio_again_and_again_is_asked_less_often() -> None:
    """It answers each time, and gets no further: a message that cannot be read, say."""
    route = Route(["only"])
    waits: list[float] = []
    for number in range(8):
        open_next(route)
        route.hear(now_s=number)
        waits.append(route.fail(DOWN, now_s=number + 0.5))

    assert waits == sorted(waits)
    assert waits[-1] + 0.5 == BACKOFF_MAX_S


def test_what_a_session_lived_is_no_time_to_wait_again() -> None:
    """Asking once in so many seconds storms nobody, whether they were waited for or heard."""
    route = Route(["only"])
    waits: list[float] = []
    for number in range(8):
        open_next(route)
        route.hear(now_s=10.0 * number)
        waits.append(route.fail(DOWN, now_s=10.0 * number + BACKOFF_MAX_S))

    assert set(waits) == {BACKOFF_MIN_S}


def test_a_session_that_lived_long_clears_the_failures_before_it() -> None:
    """Three breaks in a day are no reason to leave a provider."""
    route = Route(["first", "second"])
    for hour in range(5):
        open_next(route)
        route.hear(now_s=3600.0 * hour)
        route.fail(DOWN, now_s=3600.0 * hour + 60)

    assert route.order == ("first", "second")


def test_a_provider_that_never_answers_is_left_however_long_it_was_waited_for() -> None:
    """A time-out as long as a steady session must not count as one."""
    route = Route(["first", "second"])
    for attempt in range(3):
        open_next(route)
        route.fail(DOWN, now_s=60.0 * attempt)

    assert route.order == ("second", "first")


def test_case_11_no_room_is_nobodys_failure() -> None:
    """However often it happens; who has room, and when, is the governor's to say."""
    route = Route(["first", "second"])
    waits = [(open_next(route), route.fail(FULL, now_s=0), route.failures) for _ in range(7)]

    assert set(waits) == {("first", 0.0, 0)}


def test_failures_are_counted_in_a_row_at_one_provider() -> None:
    """Who was at another one in between, for want of room, starts anew."""
    route = Route(["first", "second"])
    for name in ("first", "first", "second", "first", "first"):
        route.open(name)
        route.fail(DOWN, now_s=0)

    assert route.order == ("first", "second")
    route.open("first")
    route.fail(DOWN, now_s=0)
    assert route.order == ("second", "first")
