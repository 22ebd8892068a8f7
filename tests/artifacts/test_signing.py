"""Local links: self-contained, unalterable, ending, and short."""

import hmac
import zlib
from base64 import urlsafe_b64encode
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mender_gateway.artifacts.identity import LONGEST_URL, object_id, parse_storage_url
from mender_gateway.artifacts.signing import LINK_PREFIX, RESUMPTION, LocalLink, Signer
from mender_gateway.errors import BadLink, Forbidden
from tests.artifacts.test_identity import S3

SECRET = b"0123456789abcdef0123456789abcdef"
END = 1_795_530_349
SIGNER = Signer(SECRET)

visible = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#")
hexadecimal = st.sampled_from([32, 63, 64, 65, 128]).flatmap(
    lambda size: st.text("0123456789abcdefF", min_size=size, max_size=size)
)
words = st.sampled_from(["/", "&X-Amz-Signature=", "&sig=", "%2F", "-", "_", "\\", "?"])
urls = st.lists(
    st.one_of(st.text(visible, max_size=8), hexadecimal, st.uuids().map(str), words), max_size=8
).map(lambda parts: "https://bucket.s3.amazonaws.com/" + "".join(parts))


def read(
    target: str | bytes, now: float = END, start: int | None = None, signer: Signer = SIGNER
) -> LocalLink:
    raw = target if isinstance(target, bytes) else target.encode()
    return signer.read(raw, now, range_start=start, single_range=start is not None)


@given(urls, st.integers(0, 999_999_999_999))
def test_a_link_says_again_what_was_signed(url: str, expires: int) -> None:
    link = SIGNER.sign(url, expires)
    assert read(link, expires) == LocalLink(url, object_id(parse_storage_url(url)), expires)


@given(urls)
def test_a_link_needs_no_escaping_anywhere(url: str) -> None:
    link = SIGNER.sign(url, END)
    assert link.startswith(LINK_PREFIX.decode())
    assert set(link) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/?&=")


def test_links_of_this_version_stay_readable() -> None:
    link = (
        "/mender-gateway/v1/b02056266981bb96a5350250a3ffed7d?se=1795530349"
        "&sr=g8YkKLhT9XISkyAxCQ1dJgqD18zQ0MiYxDAG6wkxNDEyNbGMonuAG9I-xBkBX5waQHoOTByaUw0faj0r"
        "EQtUyPj157iwqcjiuz-Q8eXD8db00qQMnS1sOl_zsafm&sig=cA-im3oyq2zXlE4Y1xFkLg"
    )
    assert read(link).url == S3


def test_a_usual_storage_link_becomes_less_than_half_as_long() -> None:
    assert len(S3) > 450
    assert len(SIGNER.sign(S3, END)) < 225


@given(st.data())
def test_a_link_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    link = SIGNER.sign(S3, END).encode()
    at = data.draw(st.integers(0, len(link) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != link[at]))
    with pytest.raises((BadLink, Forbidden)):
        read(link[:at] + bytes([other]) + link[at + 1 :])


@given(st.data())
def test_a_link_with_anything_cut_off_or_added_is_refused(data: st.DataObject) -> None:
    link = SIGNER.sign(S3, END).encode()
    at = data.draw(st.integers(0, len(link)))
    cut = data.draw(st.integers(0, len(link) - at))
    added = data.draw(st.binary(min_size=0 if cut else 1, max_size=3))
    changed = link[:at] + added + link[at + cut :]
    if changed != link:
        with pytest.raises((BadLink, Forbidden)):
            read(changed)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    for target in (raw, LINK_PREFIX + raw, LINK_PREFIX + b"0" * 32 + b"?se=1&sr=" + raw):
        with pytest.raises(BadLink):
            read(target)


def parts_of(link: str) -> tuple[str, dict[str, str]]:
    path, _, query = link.partition("?")
    return path, dict(part.split("=") for part in query.split("&"))


@pytest.mark.parametrize("name", ["se", "sr", "sig"])
def test_a_missing_or_malformed_parameter_is_said_to_be_malformed(name: str) -> None:
    path, query = parts_of(SIGNER.sign(S3, END))
    missing = "&".join(f"{key}={text}" for key, text in query.items() if key != name)
    empty = "&".join(f"{key}={'' if key == name else text}" for key, text in query.items())
    strange = "&".join(f"{key}={'!' if key == name else text}" for key, text in query.items())
    for changed in (missing, empty, strange):
        with pytest.raises(BadLink):
            read(f"{path}?{changed}")


def test_parts_of_two_links_make_no_third() -> None:
    first_path, first = parts_of(SIGNER.sign(S3, END))
    second_path, second = parts_of(SIGNER.sign(S3.replace("mender/", "other/"), END + 60))
    assert first_path != second_path
    for name in ("se", "sr", "sig"):
        mixed = {**first, name: second[name]}
        with pytest.raises(Forbidden, match="signature"):
            read(f"{first_path}?" + "&".join(f"{key}={text}" for key, text in mixed.items()))
    with pytest.raises(Forbidden, match="signature"):
        read(f"{second_path}?" + "&".join(f"{key}={text}" for key, text in first.items()))


def test_only_the_same_or_the_previous_secret_reads_a_link() -> None:
    old, new = Signer(b"old"), Signer(b"new", previous=b"old")
    link = old.sign(S3, END)
    assert read(link, signer=new).url == S3
    assert read(new.sign(S3, END), signer=new).url == S3
    for stranger in (Signer(b"new"), Signer(b"newer", previous=b"new")):
        with pytest.raises(Forbidden, match="signature"):
            read(link, signer=stranger)


def test_two_processes_with_one_secret_make_and_read_the_same_links() -> None:
    assert Signer(SECRET).sign(S3, END) == SIGNER.sign(S3, END)


def test_a_known_identity_makes_the_same_link() -> None:
    name = object_id(parse_storage_url(S3))
    assert SIGNER.sign(S3, END, name) == SIGNER.sign(S3, END)


def test_the_secret_used_for_anything_else_makes_no_link() -> None:
    link = SIGNER.sign(S3, END).encode().rpartition(b"&sig=")[0]
    bare = urlsafe_b64encode(hmac.digest(SECRET, link, "sha256")[:16])[:22]
    with pytest.raises(Forbidden, match="signature"):
        read(link + b"&sig=" + bare)


@pytest.mark.parametrize(
    ("late", "start", "served"),
    [
        (0, None, True),
        (0, 0, True),
        (0, 5, True),
        (1, None, False),
        (1, 0, False),
        (1, 1, True),
        (RESUMPTION, 1, True),
        (RESUMPTION + 1, 1, False),
    ],
)
def test_after_its_end_a_link_serves_only_those_who_resume(
    late: float, start: int | None, served: bool
) -> None:
    link = SIGNER.sign(S3, END)
    if served:
        assert read(link, END + late, start).url == S3
    else:
        with pytest.raises(Forbidden, match="expired"):
            read(link, END + late, start)


def test_a_link_that_was_read_before_still_ends() -> None:
    signer = Signer(SECRET)
    link = signer.sign(S3, END)
    assert read(link, END, signer=signer) == read(link, END, signer=signer)
    with pytest.raises(Forbidden):
        read(link, END + 1, signer=signer)
    assert read(link, END + 1, start=1, signer=signer).url == S3
    with pytest.raises(Forbidden):
        read(link, END + RESUMPTION + 1, start=1, signer=signer)


def test_several_ranges_are_no_resumption() -> None:
    link = SIGNER.sign(S3, END).encode()
    with pytest.raises(Forbidden, match="expired"):
        SIGNER.read(link, END + 1, range_start=5, single_range=False)


@pytest.mark.parametrize("url", ["", "/x", "http://user@a/x", "http://a/x#y", "http://ä/x"])
def test_what_is_no_storage_link_is_not_signed(url: str) -> None:
    with pytest.raises(BadLink):
        SIGNER.sign(url, END)


def test_the_next_gateway_sees_one_object_in_all_links_for_it() -> None:
    later = S3.replace("142549Z", "152549Z").replace("0b54c8", "ffffff")
    first = "https://region.example:8443" + SIGNER.sign(S3, END)
    second = "https://region.example:8443" + SIGNER.sign(later, END + 3600)
    assert first != second
    assert object_id(parse_storage_url(first)) == object_id(parse_storage_url(second))


def signed_payload(payload: bytes) -> bytes:
    """A link with any payload, as only a holder of the secret can make it."""
    key = hmac.digest(SECRET, b"mender-gateway artifact link v1", "sha256")
    link = LINK_PREFIX + b"0" * 32 + b"?se=%d&sr=" % END + urlsafe_b64encode(payload).rstrip(b"=")
    return link + b"&sig=" + urlsafe_b64encode(hmac.digest(key, link, "sha256")[:16])[:22]


def test_a_payload_that_inflates_without_end_is_refused() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = deflate.compress(b"a" * 64 * LONGEST_URL) + deflate.flush()
    assert len(bomb) < LONGEST_URL
    with pytest.raises(BadLink):
        read(signed_payload(bomb))


@given(st.binary(min_size=1, max_size=60))
@example(b"\x13h\x00\x00")  # inflates to what is no ASCII
@example(b"\x4b\x04\x00\x00")  # is followed by bytes that belong nowhere
def test_a_payload_that_is_none_is_refused_or_harmless(payload: bytes) -> None:
    try:
        link = read(signed_payload(payload))
    except BadLink:
        return
    assert len(link.url) <= LONGEST_URL + 2 * len(payload)


def test_digests_and_uuids_travel_as_bytes() -> None:
    base = "http://a/" + "x" * 8
    digest, uuid = "0123456789abcdef" * 4, str(UUID(int=2**127))
    plain = len(SIGNER.sign(base, END))
    assert len(SIGNER.sign(f"{base}/{digest}", END)) - plain < 48
    assert len(SIGNER.sign(f"{base}/{uuid}", END)) - plain < 28
