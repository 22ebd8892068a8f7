"""Debian's mender-client with certificates, behind a gateway that requires them."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.demo.faults import slow
from tests.mtls.fleet import AUTH, Fleet, running_fleet
from tests.mtls.gateways import refused
from tests.support.authority import Issued, authority, issue, new_key
from tests.support.device import Device, write_artifact

pytestmark = pytest.mark.device


@contextmanager
def real_device(
    fleet: Fleet,
    name: str,
    certificate: Issued | None,
    auth_key: Issued | None = None,
    *,
    terminal: bool = False,
) -> Iterator[Device]:
    """A device with its certificate; `auth_key` signs auth requests instead of the TLS key."""
    extra: dict[str, Any] = {}
    if certificate is not None:
        path, key = certificate.write(fleet.folder / "keys", name)
        extra["HttpsClient"] = {"Certificate": path, "Key": key}
    if auth_key is not None:
        _, key = auth_key.write(fleet.folder / "keys", f"{name}-auth")
        extra["Security"] = {"AuthPrivateKey": key}
    device = Device(
        name,
        fleet.folder / name,
        fleet.gateway.url("https"),
        ca=fleet.folder / "server" / "ca.crt",
        retry=2,
        terminal=terminal,
        extra=extra,
    )
    with ExitStack() as stack:
        stack.callback(device.stop)
        device.start()
        yield device


def accepted(fleet: Fleet, device: Device, timeout: float = 60.0) -> None:
    """Wait until the device was let in and has reported its inventory."""

    def reported() -> bool:
        known = fleet.upstream.device(device.identity)
        return known is not None and bool(fleet.upstream.inventory_of(device.identity))

    device.wait_until(reported, "inventory at the server", timeout)


@pytest.mark.parametrize("kind", ["rsa3072", "p256", "ed25519"])
def test_a_device_with_a_certificate_is_authorised(kind: str, tmp_path: Path) -> None:
    with running_fleet(tmp_path, RequireMatchingKey=True) as fleet:
        certificate = issue("device", fleet.root, kind=kind)
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)
            known = fleet.upstream.device(device.identity)
            assert known is not None
            assert known.auth_sets[0].pubkey.strip() == certificate.public_pem.strip()


def test_leaf_and_intermediate_with_a_separate_auth_key_and_its_rotation(tmp_path: Path) -> None:
    with running_fleet(tmp_path) as fleet:
        intermediate = authority("Intermediate", fleet.root, path_length=0)
        certificate = issue("device", intermediate).with_chain(intermediate)
        old, new = (issue("auth", key=new_key(kind)) for kind in ("ed25519", "p256"))
        with real_device(fleet, "device", certificate, old) as device:
            accepted(fleet, device)
        with real_device(fleet, "device", certificate, new) as device:
            fleet.gateway.wait_for_log("device key rotated", 60)
            device.wait_until(
                lambda: fleet.upstream.requests_to(f"POST {AUTH}")[-1].status == 200, "token", 60
            )
        known = fleet.upstream.device(device.identity)
        assert known is not None
        assert [str(each.status) for each in known.auth_sets] == ["rejected", "accepted"]


@pytest.mark.parametrize("which", ["none", "other CA", "expired", "without its intermediate"])
def test_a_device_without_a_good_certificate_reaches_nothing_upstream(
    which: str, tmp_path: Path
) -> None:
    with running_fleet(tmp_path) as fleet:
        certificates = {
            "none": None,
            "other CA": issue("device", authority("Other")),
            "expired": issue("device", fleet.root, days=(-9, -1)),
            "without its intermediate": issue("device", authority("Intermediate", fleet.root)),
        }
        reasons = {"none": "no-certificate", "expired": "expired"}
        with real_device(fleet, "device", certificates[which]):
            reason = reasons.get(which, "unknown-ca")
            fleet.gateway.wait_for_log(f'msg="TLS client refused" .*reason={reason} ', 60)
        assert fleet.upstream.requests == []


def test_an_expired_certificate_gets_in_by_the_escape_hatch(tmp_path: Path) -> None:
    with running_fleet(tmp_path, InsecureSkipClientExpireAfter=True) as fleet:
        certificate = issue("device", fleet.root, days=(-9, -1))
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)


def test_a_device_that_is_revoked_while_it_runs_is_shut_out(tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with running_fleet(tmp_path, BlacklistPath=str(blacklist)) as fleet:
        certificate = issue("device", fleet.root)
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)
            blacklist.write_text(f"{certificate.serial:x}\n")
            device.wait_until(lambda: refused(fleet, "blacklisted") >= 1, "refusal", 30)
            before, seen = len(fleet.upstream.requests), refused(fleet, "blacklisted")
            device.wait_until(lambda: refused(fleet, "blacklisted") > seen, "second refusal", 60)
            assert len(fleet.upstream.requests) == before


def release(fleet: Fleet, name: str, device: Device, megabytes: int) -> str:
    """Uploads an artifact for the device; the SHA-256 of its payload."""
    payload = fleet.folder / f"{name}.bin"
    payload.write_bytes(os.urandom(megabytes << 20))
    path = fleet.folder / f"{name}.mender"
    write_artifact(path, name, device.device_type, payload)
    fleet.upstream.add_artifact(path)
    return hashlib.sha256(payload.read_bytes()).hexdigest()


def test_a_whole_deployment_goes_over_mutual_tls_and_through_the_cache(tmp_path: Path) -> None:
    with running_fleet(tmp_path, cache=True) as fleet:
        intermediate = authority("Intermediate", fleet.root, path_length=0)
        certificate = issue("device", intermediate).with_chain(intermediate)
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)
            payload = release(fleet, "release-1", device, 12)
            deployment = fleet.upstream.deploy("release-1", [device.identity])
            device.wait_until(
                lambda: fleet.upstream.outcome(deployment, device.identity) == "success",
                "success",
                90,
            )
            assert device.installed == {"release-1.bin": payload}
        # Stored: a second one costs no crossing, and one without certificate gets nothing.
        (stored,) = {each.path for each in fleet.cloud.storage.requests}
        with real_device(fleet, "second", issue("second", fleet.root)) as device:
            accepted(fleet, device)
            again = fleet.upstream.deploy("release-1", [device.identity])
            device.wait_until(
                lambda: fleet.upstream.outcome(again, device.identity) == "success", "success", 90
            )
        assert [each.path for each in fleet.cloud.storage.requests] == [stored]


def test_a_device_that_an_administrator_rejects_stays_out_also_after_a_restart(
    tmp_path: Path,
) -> None:
    with running_fleet(tmp_path, EnableCache=False) as fleet:
        certificate = issue("device", fleet.root)
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)
            fleet.upstream.set_status(device.identity, "rejected")
            fleet.gateway.wait_for_log("a rejected device asks to be let in and is left alone", 60)
        # With a new auth key, too: the client makes one request on each start.
        with real_device(
            fleet, "device", certificate, issue("auth", key=new_key("p256"))
        ) as device:
            before = len(fleet.upstream.requests_to(f"POST {AUTH}"))

            def asked_again() -> bool:
                asked = fleet.upstream.requests_to(f"POST {AUTH}")
                return len(asked) > before + 2 and all(
                    each.status == 401 for each in asked[before:]
                )

            device.wait_until(asked_again, "refusals", 60)
        known = fleet.upstream.device(device.identity)
        assert known is not None
        assert "accepted" not in {str(each.status) for each in known.auth_sets}


@pytest.mark.full  # the client waits a minute before it goes on
def test_a_download_ends_with_the_certificate_of_its_device(tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with running_fleet(tmp_path, cache=True, BlacklistPath=str(blacklist)) as fleet:
        certificate = issue("device", fleet.root)
        with real_device(fleet, "device", certificate) as device:
            accepted(fleet, device)
            release(fleet, "release-1", device, 40)
            fleet.cloud.storage.script("*", slow(8_000_000), times=None)
            deployment = fleet.upstream.deploy("release-1", [device.identity])
            device.wait_until(lambda: fleet.cloud.storage.requests, "download", 60)
            blacklist.write_text(f"{certificate.serial:x}\n")
            fleet.gateway.wait_for_log("connection cut: .*reason=blacklisted", 10)
            device.wait_for_log("Resuming download", 60)
            seen = refused(fleet, "blacklisted")
            device.wait_until(lambda: refused(fleet, "blacklisted") > seen, "refusal", 90)
        assert device.installed == {}
        assert fleet.upstream.outcome(deployment, device.identity) == "downloading"


def test_a_remote_terminal_ends_with_the_certificate_of_its_device(tmp_path: Path) -> None:
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with running_fleet(tmp_path, BlacklistPath=str(blacklist)) as fleet:
        certificate = issue("device", fleet.root)
        with real_device(fleet, "device", certificate, terminal=True) as device:
            accepted(fleet, device)
            device.connect()
            device.wait_until(lambda: fleet.upstream.connected(device.identity), "WebSocket", 60)
            blacklist.write_text(f"{certificate.serial:x}\n")
            began = time.monotonic()
            device.wait_until(
                lambda: not fleet.upstream.connected(device.identity), "end of the WebSocket", 20
            )
            assert time.monotonic() - began < 5 + 1  # and a second for slow machines
            fleet.gateway.wait_for_log("connection cut: .*reason=blacklisted")
