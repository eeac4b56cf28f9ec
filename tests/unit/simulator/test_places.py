"""Limits of sessions."""

from speechbus_simulator.places import Places


def test_case_11_one_session_for_each_identity() -> None:
    """The next is refused until the first has ended; others are not affected."""
    places = Places(total_max=0, per_identity_max=1, linger_s=0)

    assert places.take(1, "a", now_s=0)
    assert not places.take(2, "a", now_s=1)
    assert places.take(3, "b", now_s=1)
    places.leave(1, is_clean=False, now_s=2)
    assert places.take(4, "a", now_s=2)


def test_case_11_an_unclean_end_keeps_its_place_for_a_while() -> None:
    """As a server does that waits for a ping's answer."""
    places = Places(total_max=0, per_identity_max=1, linger_s=5)
    places.take(1, "a", now_s=0)
    places.leave(1, is_clean=False, now_s=10)

    assert not places.take(2, "a", now_s=14.9)
    assert places.take(3, "a", now_s=15)
    places.leave(3, is_clean=True, now_s=16)
    assert places.take(4, "a", now_s=16)


def test_a_limit_of_all_counts_everybody() -> None:
    """Whoever they are."""
    places = Places(total_max=2, per_identity_max=0, linger_s=0)

    assert [places.take(n, "a", now_s=0) for n in (1, 2, 3)] == [True, True, False]
    places.leave(2, is_clean=True, now_s=0)
    assert places.take(4, "b", now_s=0)
