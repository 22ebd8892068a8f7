"""Deployment instructions as a device gets them through the gateway."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts.site import NEXT, Site, running_site

V1 = "/api/devices/v1/deployments/device/deployments/next"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), cache=False) as site:
        yield site


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", NEXT), ("POST", V1), ("GET", V1 + "?artifact_name=a&device_type=b")],
)
def test_a_storage_link_becomes_a_local_one_in_every_form_of_next(
    site: Site, method: str, path: str
) -> None:
    site.offer(site.storage.link("release-1.mender"))
    status, body = site.poll(method, path)
    assert status == 200
    uri = json.loads(body)["artifact"]["source"]["uri"]
    assert uri.startswith("http://gateway.test:8080/mender-gateway/v1/")


def test_nothing_but_uri_and_expire_changes(site: Site) -> None:
    link = site.storage.link("release-1.mender").replace("&", "\\u0026")
    before = (
        '{ "x":[1.0, 1e3,12345678901234567890],\n"artifact" : {"source":{"method":"GET","uri":"%s",'
        '"expire":"%s"}, "artifact_name":"\\u00e9\\/"},"id":"1","unknown":null }\n'
    )
    site.offered.update(status=200, body=(before % (link, "2030-01-01T00:00:00.069Z")).encode())
    status, body = site.poll()
    source = json.loads(body)["artifact"]["source"]
    assert status == 200
    assert source["uri"].startswith("http://gateway.test:8080/mender-gateway/")
    assert source["expire"] != "2030-01-01T00:00:00.069Z"
    assert body.decode() == before % (source["uri"], source["expire"])


@pytest.mark.parametrize("status", [204, 401, 404, 409, 429, 500])
def test_other_statuses_pass_exactly(site: Site, status: int) -> None:
    text = (
        b"" if status == 204 else b'{"error":"x","artifact":{"source":{"uri":"http://127.0.0.1/"}}}'
    )
    site.offered.update(status=status, body=text)
    assert site.poll() == (status, text)


@pytest.mark.parametrize("text", [b"", b"{", b"<html>", b'{"id":"1"}', b"[]", b'{"artifact":7}'])
def test_answers_that_are_no_instructions_pass_unchanged(site: Site, text: bytes) -> None:
    site.offered.update(status=200, body=text)
    assert site.poll() == (200, text)


def test_a_link_to_the_server_itself_comes_in_by_the_gateway(site: Site) -> None:
    path = (
        "/api/devices/v1/deployments/download/configuration/a/b/c?x-men-expire=1&x-men-signature="
    )
    for host in (site.upstream_url, "http://gateway.test:8080", "https://gateway.test:8080"):
        site.offer(host + path)
        _, body = site.poll()
        source = json.loads(body)["artifact"]["source"]
        assert source == {
            "uri": "http://gateway.test:8080" + path,
            "expire": "2030-01-01T00:00:00Z",
        }


def test_a_foreign_link_stays_and_the_log_says_what_to_add(site: Site) -> None:
    link = "https://artifacts.s3.eu-west-1.amazonaws.com/bucket/release?X-Amz-Signature=1"
    for _ in range(3):
        site.offer(link)
        _, body = site.poll()
        assert json.loads(body)["artifact"]["source"]["uri"] == link
    entry = "add_to_DomainWhitelist=artifacts.s3.eu-west-1.amazonaws.com"
    site.gateway.wait_for_log(entry)
    assert site.gateway.log.count(entry) == 1


def test_a_store_on_the_servers_own_host_passes_and_the_log_says_what_to_add(
    tmp_path: Path,
) -> None:
    path = "/bucket/release?X-Amz-Signature=1"
    with running_site(tmp_path, cache=True, DomainWhitelist=["storage.test"]) as site:
        for host in (site.upstream_url, site.upstream_url, "http://gateway.test:8080"):
            site.offer(host + path)
            _, body = site.poll()
            uri = json.loads(body)["artifact"]["source"]["uri"]
            assert uri == "http://gateway.test:8080" + path
        entry = "add_to_DomainWhitelist="
        site.gateway.wait_for_log(rf"level=warning .*{entry}127\.0\.0\.1")
        assert site.gateway.log.count(entry) == 1


def test_an_answer_larger_than_the_bound_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with running_site(tmp_path, cache=False) as site:
        site.offered.update(status=200, body=b" " * (4 * 1024 * 1024 + 1))
        status, body = site.poll()
        assert status == 502
        assert "too large" in json.loads(body)["error"]
        site.offered.update(status=204)
        assert site.poll() == (204, b"")
