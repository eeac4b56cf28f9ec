from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbus_contracts import (
    CAPTION_STORE,
    JOBS_STORE,
    PROVIDER_STORE,
    SESSION_STORE,
    SHARDS_MAX,
    TRANSCRIPT_STORE,
    AudioSubject,
    CaptionSubject,
    ContractError,
    GovernSubject,
    IngestSubject,
    JobSubject,
    LiveSubject,
    ProviderSubject,
    SessionSubject,
    Subject,
    TranscriptSubject,
    WorkerSubject,
    WriteSubject,
    audio_stream_name,
    build_audio_store,
    build_caption_store,
    build_correlator_consumer,
    build_jobs_store,
    build_provider_store,
    build_session_store,
    build_shard,
    build_transcript_store,
    build_translator_consumer,
    parse_subject,
    parse_token,
)
from tests.support.contract_strategies import TOKEN_ALPHABET, stream_ids, subjects, tokens

BAD_TOKENS = [
    "",
    " ",
    "a b",
    "a.b",
    ".",
    "*",
    ">",
    "a*",
    "a\n",
    "\n",
    "a\r\n",
    "a\x00",
    "٣",
    "\uff11",
    "²",
    "é",
    "\uff41",
    "\ud800",
    "a" * 65,
    "a/b",
    "a:b",
    "$SYS",
]


def subjects_with(token: str) -> list[Subject]:
    """A subject of every form, with `token` at each place in turn."""
    return [
        AudioSubject(0, token, "s"),
        AudioSubject(0, "t", token),
        WriteSubject(token, "s", "final"),
        WriteSubject("t", token, "final"),
        WriteSubject("t", "s", "translation", token),
        TranscriptSubject(token, "s", "gap"),
        TranscriptSubject("t", token, "gap"),
        TranscriptSubject("t", "s", "translation", token),
        LiveSubject(token, "s", "partial"),
        LiveSubject("t", token, "turn"),
        CaptionSubject(token, "s"),
        CaptionSubject("t", token),
        WorkerSubject(token, "ping"),
        SessionSubject(token, "s"),
        SessionSubject("t", token),
        IngestSubject(token, "holds"),
        GovernSubject("slots", token),
        ProviderSubject("breaker", token),
    ]


@given(subject=subjects())
def test_a_subject_parses_to_what_built_it(subject: Subject) -> None:
    """Tenant and stream of a message are known from its subject alone."""
    assert parse_subject(str(subject)) == subject


@given(text=st.text(max_size=40) | st.text("specv1audojbwrtnlvfgk.*>0-_ \n", max_size=60))
def test_what_is_parsed_would_be_built_the_same(text: str) -> None:
    """No two spellings of one subject: access rules compare subjects by letters."""
    try:
        subject = parse_subject(text)
    except ContractError:
        return

    assert str(subject) == text


@given(subject=subjects(), data=st.data())
def test_a_damaged_subject_is_refused_or_another_subject(
    subject: Subject, data: st.DataObject
) -> None:
    """One wrong letter never leads to a crash, nor to the same stream under another name."""
    text = str(subject)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 2)))
    damaged = text[:start] + data.draw(st.text(max_size=2)) + text[end:]
    try:
        parsed = parse_subject(damaged)
    except ContractError:
        return

    assert str(parsed) == damaged
    assert (parsed == subject) == (damaged == text)


@pytest.mark.parametrize("token", BAD_TOKENS, ids=ascii)
def test_a_bad_token_is_refused_when_building_and_when_parsing(token: str) -> None:
    """A dot or a wildcard in a tenant's name would reach other tenants' streams."""
    with pytest.raises(ContractError):
        parse_token(token)
    for good, bad in zip(subjects_with("QQ"), subjects_with(token), strict=True):
        with pytest.raises(ContractError):
            str(bad)
        with pytest.raises(ContractError) as caught:
            parse_subject(str(good).replace("QQ", token))
        assert len(token) < 2 or token not in str(caught.value)


@given(token=st.text(max_size=70))
def test_a_token_is_exactly_what_the_rule_says(token: str) -> None:
    """1 to 64 of A-Z a-z 0-9 _ -: one rule for tenants, streams, workers and languages."""
    is_good = 1 <= len(token) <= 64 and set(token) <= set(TOKEN_ALPHABET)
    try:
        accepted = parse_token(token) == token
    except ContractError:
        accepted = False

    assert accepted == is_good


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speech",
        "speech.v1",
        "speech.v2.job.open",
        "speech.v1.job.closed",
        "speech.v1.job.open.now",
        "Speech.v1.job.open",
        " speech.v1.job.open",
        "speech.v1.job.open\n",
        "speech.v1.audio.t.s",
        "speech.v1.audio.256.t.s",
        "speech.v1.audio.007.t.s",
        "speech.v1.audio.+1.t.s",
        "speech.v1.audio.-1.t.s",
        "speech.v1.audio.٣.t.s",
        "speech.v1.audio.².t.s",
        "speech.v1.audio..t.s",
        f"speech.v1.audio.{'9' * 5_000}.t.s",
        "speech.v1.write.t.s",
        "speech.v1.write.t.s.partial",
        "speech.v1.write.t.s.final.en",
        "speech.v1.write.t.s.translation",
        "speech.v1.write.t.s.translation.es.MX",
        "speech.v1.live.t.s.final",
        "speech.v1.caption.t",
        "speech.v1.caption.t.s.es",
        "speech.v1.worker.w.pong",
    ],
    ids=lambda text: repr(text[:40]),
)
def test_what_is_no_subject_of_this_version_is_refused(text: str) -> None:
    """A typing mistake is noticed, not published into the void."""
    with pytest.raises(ContractError):
        parse_subject(text)


@pytest.mark.parametrize(
    "subject",
    [
        AudioSubject(-1, "t", "s"),
        AudioSubject(SHARDS_MAX, "t", "s"),
        WriteSubject("t", "s", "translation"),
        WriteSubject("t", "s", "final", "en"),
        WriteSubject("t", "s", cast("Any", "partial")),
        LiveSubject("t", "s", cast("Any", "final")),
        WorkerSubject("w", cast("Any", "*")),
        GovernSubject(cast("Any", ">"), "name"),
    ],
    ids=repr,
)
def test_a_subject_that_does_not_exist_cannot_be_built(subject: Subject) -> None:
    """Type checkers say so too, but kinds may come from elsewhere."""
    with pytest.raises(ContractError):
        str(subject)


@given(stream_id=stream_ids(), shards=st.integers(1, SHARDS_MAX))
def test_a_stream_has_one_shard_everywhere(stream_id: str, shards: int) -> None:
    """Ingest and transcriber compute it apart and must meet."""
    shard = build_shard(stream_id, shards=shards)

    assert 0 <= shard < shards
    assert parse_subject(str(AudioSubject(shard, "t", stream_id))).__class__ is AudioSubject


def test_the_shard_is_the_crc32_of_the_id() -> None:
    """Other languages compute it too; changing it would move every stream."""
    assert build_shard("01a1f813-a740-7bf3-a1c9-d27e40816cfe", shards=256) == 0x9F
    assert build_shard("123456789", shards=256) == 0xCBF43926 % 256


@pytest.mark.parametrize(("stream_id", "shards"), [("s", 0), ("s", -1), ("s", 257), ("\ud800", 4)])
def test_a_shard_of_nothing_is_refused(stream_id: str, shards: int) -> None:
    """One class of error, whatever is wrong."""
    with pytest.raises(ContractError):
        build_shard(stream_id, shards=shards)


def _matches(pattern: str, subject: str) -> bool:
    """NATS' rule: `*` is one token, `>` at the end is one or more."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        want in ("*", token) for want, token in zip(wanted, found, strict=True)
    )


@given(subject=subjects())
def test_every_subject_is_kept_by_its_store_and_by_no_other(subject: Subject) -> None:
    """JetStream refuses stores that overlap, and acknowledges nothing that no store keeps."""
    stores = [
        *(build_audio_store(shard) for shard in range(SHARDS_MAX)),
        build_jobs_store(),
        build_transcript_store(),
        build_caption_store(),
        build_session_store(),
        build_provider_store(),
    ]
    keepers = [
        name
        for name, store in stores
        for pattern in store["subjects"]
        if _matches(pattern, str(subject))
    ]
    match subject:
        case AudioSubject():
            expected = [audio_stream_name(subject.shard)]
        case JobSubject():
            expected = [JOBS_STORE]
        case WriteSubject():
            expected = [TRANSCRIPT_STORE]
        case CaptionSubject():
            expected = [CAPTION_STORE]
        case SessionSubject():
            expected = [SESSION_STORE]
        case GovernSubject():
            expected = [PROVIDER_STORE]
        case _:
            expected = []

    assert keepers == expected


@given(tenant=tokens(), stream_id=tokens(), language=tokens())
def test_what_is_written_is_read_under_the_same_name(
    tenant: str, stream_id: str, language: str
) -> None:
    """JetStream republishes by replacing the root; readers' subjects must be the outcome."""
    _, store = build_transcript_store()
    source = store["republish"]["src"].removesuffix(">")
    target = store["republish"]["dest"].removesuffix(">")
    written = str(WriteSubject(tenant, stream_id, "translation", language))

    read = str(TranscriptSubject(tenant, stream_id, "translation", language))

    assert written.replace(source, target, 1) == read


@given(subject=subjects())
def test_correlators_and_translators_get_what_they_need_and_no_more(subject: Subject) -> None:
    """Everything else on the write tree would wake them for nothing."""
    kind = subject.kind if isinstance(subject, WriteSubject) else None
    filters = build_correlator_consumer()["filter_subjects"]
    is_joined = any(_matches(pattern, str(subject)) for pattern in filters)
    is_translated = _matches(build_translator_consumer()["filter_subject"], str(subject))

    assert is_joined == (kind in {"final", "retracted", "translation"})
    assert is_translated == (kind == "final")
