"""The simulated Palabra's session storage."""

from itertools import count

from speechbus_simulator.palabra_sessions import SessionStorage


class Storage(SessionStorage):
    """With a time that the test sets, and ids that count."""

    def __init__(self) -> None:
        numbers = count(1)
        self.now_s = 0.0
        super().__init__(
            ttl_s=100,
            secret=b"secret",
            now_s=lambda: self.now_s,
            new_id=lambda: f"id{next(numbers)}",
        )

    def ids(self, owner: str) -> list[str]:
        """Of this client's sessions."""
        return [entry["id"] for entry in self.list_page(owner, size=20, after="")["data"]]


def test_a_session_can_be_seen_and_its_token_opens_it() -> None:
    """By the publisher's token only."""
    storage = Storage()
    session = storage.mint("me", subscriber_count=1)

    assert storage.describe("me", "id1") == {
        "ok": True,
        "data": {
            "id": "id1",
            "created_at": "1970-01-01T00:00:00Z",
            "updated_at": "1970-01-01T00:00:00Z",
            "expires_at": "1970-01-01T00:01:40Z",
        },
    }
    assert storage.find(session.publisher) == (True, "id1")
    assert storage.find(session.subscribers[0]) == (True, None)
    assert storage.find("an-api-key") == (False, None)


def test_a_client_sees_its_own_sessions_only() -> None:
    """Page by page, the oldest first."""
    storage = Storage()
    for owner in ("me", "other", "me", "me"):
        storage.mint(owner, subscriber_count=0)

    assert storage.ids("me") == ["id1", "id3", "id4"]
    page = storage.list_page("me", size=2, after="")
    assert page["next_page_token"] == "id3"
    rest = storage.list_page("me", size=2, after=page["next_page_token"])
    assert [entry["id"] for entry in rest["data"]] == ["id4"]
    assert rest["next_page_token"] == ""
    assert storage.describe("me", "id2") is None
    assert not storage.delete("me", "id2")
    assert not storage.set_ttl("me", "id2", 10)


def test_a_deleted_session_is_gone_with_its_token() -> None:
    """Once."""
    storage = Storage()
    session = storage.mint("me", subscriber_count=0)

    assert storage.delete("me", "id1")
    assert storage.find(session.publisher) == (True, None)
    assert not storage.delete("me", "id1")
    assert storage.ids("me") == []


def test_a_session_expires_unless_it_is_given_more_time() -> None:
    """Or less."""
    storage = Storage()
    tokens = [storage.mint("me", subscriber_count=0).publisher for _ in range(3)]
    storage.now_s = 50.0
    assert storage.set_ttl("me", "id1", 200)
    assert storage.set_ttl("me", "id2", 1)
    storage.now_s = 51.0
    assert [storage.find(token)[1] for token in tokens] == ["id1", None, "id3"]
    storage.now_s = 100.0
    assert [storage.find(token)[1] for token in tokens] == ["id1", None, None]
    storage.now_s = 250.0
    assert storage.ids("me") == []


def test_a_connected_session_does_not_expire() -> None:
    """And has a minute when its connection has ended."""
    storage = Storage()
    token = storage.mint("me", subscriber_count=0).publisher
    storage.note_live("id1", 1)
    storage.now_s = 1_000.0
    described = storage.describe("me", "id1")
    assert described is not None
    assert described["data"]["expires_at"] == "1970-01-01T00:17:40Z"
    storage.note_live("id1", -1)
    storage.now_s = 1_059.0
    assert storage.find(token) == (True, "id1")
    storage.now_s = 1_060.0
    assert storage.find(token) == (True, None)


def test_the_oldest_sessions_make_room() -> None:
    """Memory is bounded."""
    storage = Storage()
    first, *_, last = (storage.mint("me", subscriber_count=0).publisher for _ in range(1_001))

    assert storage.find(first) == (True, None)
    assert storage.find(last) == (True, "id1001")
