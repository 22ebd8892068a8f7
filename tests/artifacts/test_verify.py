"""What a verifier accepts, what it refuses, and what it says of an artifact."""

import gzip
import hashlib
import os
import tarfile
import tracemalloc

import pytest

from mender_gateway.artifacts.description import decode
from mender_gateway.artifacts.verify import ContentVerifier, Rejections, Verification
from mender_gateway.cache.errors import VerificationFailed
from mender_gateway.cache.origin import Attributes
from tests.artifacts.made import SUFFIXES, artifact, artifact_parts, packed, tar_of, verify

COMPRESSIONS = sorted(SUFFIXES)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_whole_artifact_is_accepted_and_described(compression: str) -> None:
    data = artifact([{"a": os.urandom(70_000), "b": b""}, {"c": b"c" * 9}], compression=compression)
    described = decode(verify(data))
    assert described is not None
    assert described.artifact_name == "release-1"
    assert described.device_types == ("board-1", "board-2")
    assert described.payload_types == ("single-file", "single-file")
    assert described.provides["single-file.version"] == "release-1"
    assert described.group == "group-1"
    assert described.verified
    assert not described.signed


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("part", ["version", "header.tar", "data/0000/a", "data/0000/b"])
def test_a_wrong_checksum_of_any_part_is_refused(compression: str, part: str) -> None:
    parts = artifact_parts([{"a": b"a" * 5000, "b": b"b"}], compression=compression)
    name = part + SUFFIXES[compression] if part == "header.tar" else part
    lines = parts["manifest"].decode().splitlines()
    wrong = [f"{'0' * 64}  {name}" if line.endswith(f"  {name}") else line for line in lines]
    assert wrong != lines
    parts["manifest"] = "\n".join(wrong).encode()
    with pytest.raises(VerificationFailed, match=f"'{name}' has a wrong checksum"):
        verify(tar_of(parts))


@pytest.mark.parametrize("part", ["header.tar.gz", "data/0000.tar.gz"])
def test_a_missing_part_is_refused(part: str) -> None:
    parts = artifact_parts()
    del parts[part]
    with pytest.raises(VerificationFailed, match=r"is missing|before the header"):
        verify(tar_of(parts))


def test_a_missing_payload_file_is_refused() -> None:
    parts = artifact_parts([{"a": b"1", "b": b"2"}])
    parts["data/0000.tar.gz"] = packed(tar_of({"a": b"1"}), "gzip")
    with pytest.raises(VerificationFailed, match="'data/0000/b' is missing"):
        verify(tar_of(parts))


def test_a_payload_file_that_the_manifest_does_not_name_is_refused() -> None:
    parts = artifact_parts([{"a": b"1"}])
    parts["data/0000.tar.gz"] = packed(tar_of({"a": b"1", "evil": b"2"}), "gzip")
    with pytest.raises(VerificationFailed, match="'data/0000/evil' is not in the manifest"):
        verify(tar_of(parts))


def test_a_payload_file_that_occurs_twice_is_refused() -> None:
    parts = artifact_parts([{"a": b"1"}], compression="none")
    parts["data/0000.tar"] = tar_of({"a": b"1"})[:1024] * 2
    with pytest.raises(VerificationFailed, match="occurs twice"):
        verify(tar_of(parts))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_payload_files_are_understood(form: int) -> None:
    data = artifact([{"l" * 150: b"long", "short": b"s"}], form=form)
    assert decode(verify(data)) is not None


@pytest.mark.parametrize(
    "content",
    [b"", b"x", os.urandom(100_000), b"PK\3\4" + bytes(2000), tar_of({"other": b"content"})],
)
def test_other_content_is_kept_without_description(content: bytes) -> None:
    assert verify(content) is None


def test_an_unknown_version_is_kept_unverified() -> None:
    described = decode(verify(artifact(version=4)))
    assert described is not None
    assert not described.verified


def test_a_damaged_version_number_is_not_taken_for_an_unknown_version() -> None:
    parts = artifact_parts()
    parts["version"] = parts["version"].replace(b"3", b"7")
    with pytest.raises(VerificationFailed, match="'version' has a wrong checksum"):
        verify(tar_of(parts))


def test_version_2_is_verified_likewise() -> None:
    described = decode(verify(artifact(version=2)))
    assert described is not None
    assert described.verified
    assert described.version == 2


def test_augmented_parts_are_verified() -> None:
    parts = artifact_parts([{"a": b"1"}])
    header = packed(tar_of({"header-info": b"{}"}), "gzip")
    lines = f"{hashlib.sha256(header).hexdigest()}  header-augment.tar.gz\n"
    lines += f"{hashlib.sha256(b'2').hexdigest()}  data/0000/b\n"
    data = packed(tar_of({"a": b"1", "b": b"2"}), "gzip")
    parts = {
        "version": parts["version"],
        "manifest": parts["manifest"],
        "manifest-augment": lines.encode(),
        "header.tar.gz": parts["header.tar.gz"],
        "header-augment.tar.gz": header,
        "data/0000.tar.gz": data,
    }
    described = decode(verify(tar_of(parts)))
    assert described is not None
    assert described.verified
    parts["data/0000.tar.gz"] = packed(tar_of({"a": b"1", "b": b"3"}), "gzip")
    with pytest.raises(VerificationFailed, match="'data/0000/b' has a wrong checksum"):
        verify(tar_of(parts))


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_a_cut_compressed_payload_is_refused(compression: str) -> None:
    parts = artifact_parts([{"a": os.urandom(50_000)}], compression=compression)
    name = f"data/0000.tar{SUFFIXES[compression]}"
    parts[name] = parts[name][: len(parts[name]) // 2]
    with pytest.raises(VerificationFailed):
        verify(tar_of(parts))


def test_content_behind_the_end_of_the_archive_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="goes on behind its end"):
        verify(artifact() + b"more" + bytes(508))


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd"])
def test_a_bomb_is_given_up_in_flat_memory_and_little_time(compression: str) -> None:
    zeros = bytes(1 << 24)
    once = packed(zeros, compression)
    parts = artifact_parts([{"a": b""}], compression=compression)
    grown = tarfile.TarInfo("a")
    grown.size = 1 << 40
    head = grown.tobuf(tarfile.GNU_FORMAT)
    parts[f"data/0000.tar{SUFFIXES[compression]}"] = packed(head, compression) + once * 24
    data = tar_of(parts)
    tracemalloc.start()
    verifier = ContentVerifier(Attributes(len(data)))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        described = decode(verify(data, verifier))
    except VerificationFailed:
        assert compression == "gzip"  # within bounds, and not the size that is declared
    else:
        assert described is not None
        assert not described.verified
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - held < 8 << 20


def test_a_large_artifact_is_read_in_flat_memory() -> None:
    data = artifact([{"a": os.urandom(20 << 20)}], compression="gzip")
    tracemalloc.start()
    verify(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_oversized_texts_and_headers_are_refused_or_passed_over() -> None:
    parts = artifact_parts()
    parts["version"] = b" " * 100_000
    with pytest.raises(VerificationFailed, match="version is too large"):
        verify(tar_of(parts))
    parts = artifact_parts()
    big = packed(tar_of({"header-info": b" " * (2 << 20)}), "gzip")
    old = hashlib.sha256(parts["header.tar.gz"]).hexdigest().encode()
    new = hashlib.sha256(big).hexdigest().encode()
    parts["manifest"] = parts["manifest"].replace(old, new)
    parts["header.tar.gz"] = big
    described = decode(verify(tar_of(parts)))
    assert described is not None
    assert described.verified
    assert described.artifact_name == ""


class TestMd5:
    def check(self, etag: str | None, *, plain: bool = True) -> str | None:
        content = b"some content" * 1000
        verifier = ContentVerifier(Attributes(len(content), etag=etag), (), lambda _: plain)
        return verify(content, verifier)

    def test_an_etag_that_is_the_contents_md5_is_accepted(self) -> None:
        digest = hashlib.md5(b"some content" * 1000).hexdigest()
        assert self.check(f'"{digest}"') is None
        assert self.check(f'"{digest.upper()}"') is None

    def test_an_etag_that_is_another_md5_is_refused(self) -> None:
        with pytest.raises(VerificationFailed, match="MD5 is"):
            self.check(f'"{"0" * 32}"')

    @pytest.mark.parametrize(
        "etag", [None, '"abc"', f'"{"0" * 32}-2"', "0" * 32, f'W/"{"0" * 32}"', f'"{"0" * 31}g"']
    )
    def test_other_etags_say_nothing(self, etag: str | None) -> None:
        assert self.check(etag) is None

    def test_an_etag_that_storage_did_not_make_by_md5_says_nothing(self) -> None:
        assert self.check(f'"{"0" * 32}"', plain=False) is None


def test_an_empty_gzip_payload_is_accepted() -> None:
    parts = artifact_parts([{}])
    parts["data/0000.tar.gz"] = gzip.compress(b"")
    assert decode(verify(tar_of(parts))) is not None


class TestRejections:
    def test_the_second_rejection_in_a_row_pauses_and_later_ones_longer(self) -> None:
        now = 0.0
        rejections = Rejections(lambda: now)
        assert rejections.standing("a") is None
        rejections.rejected("a", "wrong")
        assert rejections.standing("a") is None
        rejections.rejected("a", "wrong again")
        assert rejections.standing("a") == "wrong again"
        assert rejections.standing("b") is None
        now = 60.0
        assert rejections.standing("a") is None
        rejections.rejected("a", "still")
        now = 179.0
        assert rejections.standing("a") == "still"
        now = 180.0
        assert rejections.standing("a") is None

    def test_an_acceptance_clears_the_record(self) -> None:
        rejections = Rejections(lambda: 0.0)
        rejections.rejected("a", "wrong")
        rejections.accepted("a")
        rejections.rejected("a", "wrong")
        assert rejections.standing("a") is None

    def test_a_verifier_writes_the_record(self) -> None:
        verification = Verification()
        parts = artifact_parts()
        del parts["data/0000.tar.gz"]
        data = tar_of(parts)
        for _ in range(2):
            with pytest.raises(VerificationFailed):
                verify(data, verification.of("a")(Attributes(len(data))))
        assert "is missing" in (verification.rejections.standing("a") or "")
        data = artifact()
        verify(data, verification.of("a")(Attributes(len(data))))
        assert verification.rejections.standing("a") is None
