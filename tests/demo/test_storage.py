"""The store: presigned links as S3 checks them, ranges, counts, the throttled uplink."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_gateway.demo.blobs import BytesBlob, GeneratedBlob, Slice
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.presign import BadSignature, Expired, SigningKey, check, presigned
from mender_gateway.demo.uplink import BURST
from tests.demo.asking import Ask

CONTENT = GeneratedBlob(100_000).read(0, 100_000)
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@pytest.fixture
def stored(cloud: Cloud) -> Cloud:
    cloud.storage.put("object", CONTENT)
    return cloud


def target(cloud: Cloud, life: int | None = None) -> str:
    return cloud.storage.link("object", life=life).removeprefix(cloud.storage.base)


@given(path=TEXT, filename=TEXT, host=st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}(:\d{2,5})?"))
def test_a_presigned_link_is_valid_until_it_expires(path: str, filename: str, host: str) -> None:
    key, host = SigningKey(), host.strip()
    link = presigned(key, f"http://{host}", f"/b/{path}", 1_000_000, 60, filename)
    received = link.removeprefix(f"http://{host}")
    values = check(key, received, host, 1_000_059)
    assert values["response-content-disposition"] == f'attachment; filename="{filename}"'
    with pytest.raises(Expired):
        check(key, received, host, 1_000_060)


@given(position=st.integers(min_value=0), other=st.sampled_from("abcdefghijklmnopqrstuvwxyz019"))
def test_no_character_of_a_link_can_be_changed(position: int, other: str) -> None:
    key = SigningKey()
    link = presigned(key, "http://store", "/bucket/object", 1_000_000, 600, "a")
    received = link.removeprefix("http://store")
    position %= len(received)
    changed = received[:position] + other + received[position + 1 :]
    same = changed == received or (
        # The digits of a percent escape have no case.
        changed.lower() == received.lower() and "%" in received[max(0, position - 2) : position]
    )
    if same:
        return
    with pytest.raises((BadSignature, Expired)):
        check(key, changed, "store", 1_000_001)


def test_a_link_is_for_one_host_only() -> None:
    link = presigned(SigningKey(), "http://store:1", "/b/o", 1_000_000, 60, "a")
    with pytest.raises(BadSignature):
        check(SigningKey(), link.removeprefix("http://store:1"), "store:2", 1_000_001)


@settings(max_examples=200)
@given(
    size=st.integers(0, 50),
    start=st.integers(0, 50),
    length=st.integers(0, 50),
    piece=st.integers(1, 20),
)
def test_a_slice_yields_its_bytes_whatever_the_piece(
    size: int, start: int, length: int, piece: int
) -> None:
    start, content = min(start, size), GeneratedBlob(size).read(0, size)
    length = min(length, size - start)
    for blob in (BytesBlob(content), GeneratedBlob(size)):
        got = b"".join(Slice(blob, start, length).pieces(piece))
        assert got == content[start : start + length]


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-", 0, 100_000),
        ("bytes=99999-", 99_999, 100_000),
        ("bytes=10-19", 10, 20),
        ("bytes=10-999999", 10, 100_000),
        ("bytes=-5", 99_995, 100_000),
        ("bytes=-999999", 0, 100_000),
    ],
)
def test_a_range_is_served(stored: Cloud, ask: Ask, wanted: str, start: int, end: int) -> None:
    answer = ask(stored.storage.base, "GET", target(stored), {"Range": wanted})
    assert answer.status == 206
    assert answer.header("content-range") == f"bytes {start}-{end - 1}/100000"
    assert answer.body == CONTENT[start:end]


@pytest.mark.parametrize("wanted", ["bytes=5-3", "bytes=0-1,5-6", "lines=1-2", "bytes=-"])
def test_what_is_no_single_range_is_ignored(stored: Cloud, ask: Ask, wanted: str) -> None:
    answer = ask(stored.storage.base, "GET", target(stored), {"Range": wanted})
    assert (answer.status, answer.body) == (200, CONTENT)


@pytest.mark.parametrize("wanted", ["bytes=100000-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(stored: Cloud, ask: Ask, wanted: str) -> None:
    answer = ask(stored.storage.base, "GET", target(stored), {"Range": wanted})
    assert answer.status == 416


def test_if_range_needs_the_object_unchanged(stored: Cloud, ask: Ask) -> None:
    base, link = stored.storage.base, target(stored)
    etag = ask(base, "GET", link).header("etag")
    assert etag is not None
    fields = {"Range": "bytes=5-", "If-Range": etag}
    assert ask(base, "GET", link, fields).status == 206
    stored.storage.change_etag("object", '"another"')
    assert ask(base, "GET", link, fields).status == 200


def test_an_expired_link_is_refused(stored: Cloud, ask: Ask) -> None:
    answer = ask(stored.storage.base, "GET", target(stored, life=0))
    assert answer.status == 403
    assert b"expired" in answer.body


def test_what_was_asked_is_counted(stored: Cloud, ask: Ask) -> None:
    base, before = stored.storage.base, stored.uplink.bytes_passed
    ask(base, "GET", target(stored))
    ask(base, "GET", target(stored), {"Range": "bytes=0-9"})
    usage = stored.storage.usage("object")
    assert (usage.gets, usage.whole, usage.bytes) == (2, 1, 100_010)
    passed = stored.uplink.bytes_passed - before
    assert 100_010 < passed < 102_000  # the heads cross the uplink too
    assert [exchange.status for exchange in stored.storage.requests] == [200, 206]


def test_the_store_is_reachable_on_the_upstreams_host(ask: Ask) -> None:
    with running(CloudSettings(storage_on_upstream=True)) as cloud:
        cloud.storage.put("object", CONTENT)
        link = cloud.storage.link("object")
        assert link.startswith(f"{cloud.upstream.base}/mender/")
        answer = ask(cloud.upstream.base, "GET", link.removeprefix(cloud.upstream.base))
        assert answer.body == CONTENT


@pytest.fixture
def slow_cloud() -> Iterator[Cloud]:
    with running(CloudSettings(uplink=8_000_000)) as cloud:
        cloud.storage.put("object", GeneratedBlob(500_000))
        yield cloud


def test_the_uplink_has_the_rate_that_was_asked_for(slow_cloud: Cloud, ask: Ask) -> None:
    started = time.monotonic()
    body = ask(slow_cloud.storage.base, "GET", target(slow_cloud)).body
    seconds = time.monotonic() - started
    assert len(body) == 500_000
    # 1 MB/s, less what a full bucket lets through at once; slower on a busy machine.
    assert seconds >= (500_000 - BURST) / 1_000_000
    assert seconds < 3
