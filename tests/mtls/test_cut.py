"""What a revoked device is in the middle of ends with its certificate, whatever it is."""

import json
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mender_gateway.demo.artifact import write_artifact
from mender_gateway.demo.blobs import BytesBlob
from mender_gateway.demo.faults import Gate, held
from tests.mtls.fleet import Device, Fleet, running_fleet
from tests.mtls.gateways import cut_off
from tests.support.scripted import Peer, connect

NEXT = "/api/devices/v1/deployments/device/deployments/next"
MEGABYTE = 1 << 20
SIZE = 12 * MEGABYTE
"""More than the buffers of two kernels and a sender thread's turn."""


@dataclass
class Revoking:
    fleet: Fleet
    blacklist: Path

    def revoke(self, device: Device) -> None:
        """Blacklist the certificate, and wait until it is in force."""
        beside = self.blacklist.with_name("beside")
        beside.write_text(f"{device.certificate.serial:x}\n")
        os.replace(beside, self.blacklist)
        self.fleet.gateway.wait_for_log("connection cut: .*reason=blacklisted")


@pytest.fixture
def revoking(tmp_path: Path) -> Iterator[Revoking]:
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with running_fleet(tmp_path / "fleet", cache=True, BlacklistPath=str(blacklist)) as fleet:
        yield Revoking(fleet, blacklist)


def asking(path: str, token: str = "", method: str = "GET", body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def link_of(fleet: Fleet, device: Device, folder: Path) -> str:
    """The local path of an artifact that is deployed to the device."""
    token = fleet.send(device, device.request())[2].decode()
    blob = BytesBlob(os.urandom(SIZE))
    artifact = write_artifact(
        folder / "a.mender", name="release-1", device_types=["board"], files={"image": blob}
    )
    fleet.upstream.add_artifact(artifact.path)
    fleet.upstream.deploy("release-1", [device.identity])
    body = json.dumps({"artifact_name": "release-0", "device_type": "board"}).encode()
    status, _, answer = fleet.send(device, asking(NEXT, token, "POST", body))
    assert status == 200, answer
    uri: str = json.loads(answer)["artifact"]["source"]["uri"]
    return "/" + uri.split("/", 3)[3]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_download_from_the_cache_ends(
    version: ssl.TLSVersion, revoking: Revoking, tmp_path: Path
) -> None:
    """Sender threads have it in hand, or the loop while the device takes no more."""
    fleet = revoking.fleet
    lost, kept = fleet.device(), fleet.device()
    path = link_of(fleet, lost, tmp_path)
    assert len(fleet.send(kept, asking(path))[2]) > SIZE  # it is stored now
    peers = []
    for device in (lost, kept):
        context = device.certificate.context(tmp_path, f"{device.certificate.serial}", version)
        peer = connect(fleet.gateway.ports["https"], context, receive_buffer=65536)
        peer.send(asking(path))
        assert peer.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        peers.append(peer)
    revoking.revoke(lost)
    data, clean = peers[0].read_to_end()
    assert len(data) < SIZE
    assert not clean
    assert len(peers[1].read_exactly(SIZE)) == SIZE, "another device's download was cut"
    for peer in peers:
        peer.close()


def test_an_answer_that_is_still_to_come_does_not_arrive(revoking: Revoking) -> None:
    fleet = revoking.fleet
    device = fleet.device()
    assert fleet.authenticate(device) == 200
    gate = Gate()
    fleet.upstream.script("/api/devices/v1/slow", held(gate), times=1)
    with fleet.connect(device) as peer:
        # And another one behind it, which nobody may answer either.
        peer.send(asking("/api/devices/v1/slow") + asking("/api/devices/v1/second"))
        gate.wait_reached(20)
        revoking.revoke(device)
        assert cut_off(peer)
        gate.release()
        assert fleet.authenticate(fleet.device()) == 200
    assert fleet.upstream.requests_to("/api/devices/v1/second") == []


def test_a_request_that_is_half_sent_goes_nowhere(revoking: Revoking) -> None:
    fleet = revoking.fleet
    device = fleet.device()
    request = device.request()
    with fleet.connect(device) as peer:
        peer.send(request[:-10])
        revoking.revoke(device)
        end_of(peer, request[-10:])
    assert fleet.authenticate(fleet.device()) == 200
    assert fleet.upstream.device(device.identity) is None


def end_of(peer: Peer, data: bytes) -> None:
    try:
        peer.send(data)
    except OSError:
        pass
    assert cut_off(peer)
