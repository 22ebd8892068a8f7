"""Artifacts that must be signed, through the real gateway: nothing unsigned arrives whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from mender_gateway.demo.faults import with_header
from tests.artifacts.made import artifact, artifact_parts, packed, tar_of
from tests.artifacts.site import Site, running_site
from tests.artifacts.test_signature import EC, RSA, by_ec, by_rsa, pem

PAYLOAD = os.urandom(2_000_000)
SIGNED = artifact([{"image": PAYLOAD}], sign=by_rsa)
FOREIGN = artifact([{"image": PAYLOAD}], sign=by_ec)
UNSIGNED = artifact([{"image": PAYLOAD}])


def tampered() -> bytes:
    """Rightly signed, with another payload, which shows when all of it has arrived."""
    parts = artifact_parts([{"image": PAYLOAD}], sign=by_rsa, compression="none")
    parts["data/0000.tar"] = tar_of({"image": PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])})
    return tar_of(parts)


def incomplete() -> bytes:
    """Rightly signed and nothing in it wrong: that a part is missing shows only at the end."""
    parts = artifact_parts(
        [{"image": PAYLOAD}, {"other": PAYLOAD[::-1]}], sign=by_rsa, compression="none"
    )
    del parts["data/0001.tar"]
    return tar_of(parts)


TAMPERED = tampered()
INCOMPLETE = incomplete()


@contextmanager
def strict_site(folder: Path, *, cache: bool, keys: list[str] | None = None) -> Iterator[Site]:
    (folder / "keys").mkdir()
    key = pem(folder / "keys", RSA)
    with running_site(
        folder, cache=cache, ArtifactVerifyKeys=[key] if keys is None else keys
    ) as site:
        yield site


@pytest.fixture(scope="module", params=[False, True], ids=["uncached", "cached"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with strict_site(tmp_path_factory.mktemp("site"), cache=request.param) as site:
        yield site


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A fresh object's name, so that tests share a gateway and no object."""
    return f"object-{abs(hash(request.node.name))}"


def path_of(site: Site, name: str, content: bytes) -> str:
    site.storage.put(name, content)
    return site.link(site.storage.link(name))


def received(site: Site, path: str, wanted: str | None = None) -> bytes | None:
    """The body of a 200 or 206 as far as it came; None for a refusal."""
    connection = site.connect()
    try:
        connection.request("GET", path, headers={"Range": wanted} if wanted else {})
        response = connection.getresponse()
        if response.status not in (200, 206):
            assert response.status == 502
            response.read()
            return None
        body = b""
        try:
            while data := response.read1(65536):
                body += data
        except (HTTPException, ConnectionError):
            pass
        return body
    finally:
        connection.close()


def stored(site: Site) -> list[str]:
    objects = site.folder / "cache" / "v1" / "objects"
    return os.listdir(objects) if objects.exists() else []


def test_a_signed_artifact_arrives(site: Site, name: str) -> None:
    path = path_of(site, name, SIGNED)
    for _ in range(3):
        assert site.get(path)[2] == SIGNED


def test_a_range_of_a_signed_artifact_arrives(site: Site, name: str) -> None:
    path = path_of(site, name, SIGNED)
    for start in (1_000_000, len(SIGNED) - 1, 1):
        status, headers, body = site.get(path, f"bytes={start}-")
        assert (status, body) == (206, SIGNED[start:])
        assert headers["Content-Range"] == f"bytes {start}-{len(SIGNED) - 1}/{len(SIGNED)}"
    assert site.get(path, "bytes=2048-4095")[2] == SIGNED[2048:4096]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (UNSIGNED, "not signed"),
        (FOREIGN, "none of the keys"),
        (TAMPERED, "'data/0000/image' has a wrong checksum"),
        (INCOMPLETE, "'data/0001/other' is missing"),
        (PAYLOAD, "no Mender artifact"),
    ],
    ids=["unsigned", "foreign", "tampered", "incomplete", "other"],
)
def test_the_end_of_anything_else_never_arrives_and_the_log_says_why(
    site: Site, name: str, content: bytes, reason: str
) -> None:
    path = path_of(site, name, content)
    for wanted in (None, f"bytes={len(content) // 2}-", f"bytes={len(content) - 1}-"):
        body = received(site, path, wanted)
        start = int(wanted[6:-1]) if wanted else 0
        assert body is None or start + len(body) < len(content)
        assert body is None or content[start:].startswith(body)
    site.gateway.wait_for_log(rf"level=error .*rejected.*{reason}")
    assert path.partition("?")[0].rpartition("/")[2] not in stored(site)
    assert site.metric("mender_gateway_rejected_artifacts_total") >= 1


def test_a_wrong_signature_costs_the_uplink_little_and_soon_nothing(site: Site, name: str) -> None:
    content = artifact([{"image": os.urandom(20_000_000)}], sign=by_ec, compression="none")
    path = path_of(site, name, content)
    before = site.metric("mender_gateway_storage_bytes_total")
    for _ in range(2):
        assert received(site, path) is None
    assert site.metric("mender_gateway_storage_bytes_total") - before < 4_000_000
    asked = site.storage.usage(name).gets
    for _ in range(3):
        assert received(site, path) is None
    assert site.storage.usage(name).gets == asked


def test_what_was_stored_before_there_were_keys_is_checked_when_it_is_asked_for(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "pem"
    keys.mkdir()
    with running_site(tmp_path, cache=True) as site:
        paths = {n: path_of(site, n, c) for n, c in (("good", SIGNED), ("bad", UNSIGNED))}
        for path in paths.values():
            assert site.get(path)[0] == 200
        site.restart(ArtifactVerifyKeys=[pem(keys, EC, "other"), pem(keys, RSA)])
        for _ in range(2):
            assert site.get(paths["good"])[2] == SIGNED
            assert received(site, paths["bad"]) is None
        assert site.storage.usage("good").gets == 1
        assert len(stored(site)) == 1
        # the signature was made with a key that is no longer among those configured
        site.restart(ArtifactVerifyKeys=[pem(keys, EC, "other")])
        assert received(site, paths["good"]) is None
        assert stored(site) == []


def test_a_key_that_cannot_be_used_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=True) as site:
        assert site.gateway.stop() == 0
        with pytest.raises(AssertionError, match="ArtifactVerifyKeys: /no/key: No such file"):
            site.start(ArtifactVerifyKeys=["/no/key"])


def test_a_payload_that_does_not_match_is_never_stored_without_keys_either(
    tmp_path: Path,
) -> None:
    with running_site(tmp_path, cache=True) as site:
        parts = artifact_parts([{"image": PAYLOAD}])
        parts["data/0000.tar.gz"] = packed(tar_of({"image": PAYLOAD[::-1]}), "gzip")
        content = tar_of(parts)
        body = received(site, path_of(site, "a", content))
        assert body is None or len(body) < len(content)
        assert stored(site) == []


class TestMd5:
    def test_content_that_is_not_what_its_etag_says_is_refused(self, tmp_path: Path) -> None:
        with running_site(tmp_path, cache=True) as site:
            path = path_of(site, "a", PAYLOAD)
            site.storage.change_etag("a", f'"{"0" * 32}"')
            body = received(site, path)
            assert body is None or len(body) < len(PAYLOAD)
            site.gateway.wait_for_log("rejected.*MD5 is")
            assert stored(site) == []

    @pytest.mark.parametrize("encryption", ["aws:kms", "aws:kms:dsse"])
    def test_etags_of_objects_encrypted_with_own_keys_are_no_md5(
        self, tmp_path: Path, encryption: str
    ) -> None:
        with running_site(tmp_path, cache=True) as site:
            path = path_of(site, "a", PAYLOAD)
            site.storage.change_etag("a", f'"{"0" * 32}"')
            field = with_header("x-amz-server-side-encryption", encryption)
            site.storage.script("GET /*", field, times=None)
            assert site.get(path)[2] == PAYLOAD
