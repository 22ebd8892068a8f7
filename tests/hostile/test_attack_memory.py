"""What one device can make the gateway keep for it is bounded, for all its connections together."""

import json

from tests.support.messages import asking
from tests.support.scripted import Peer, connect
from tests.support.served import Start
from tests.support.stage import Stage, eventually

INVENTORY = "/api/devices/v1/inventory/device/attributes"
SYSTEM = {"Features": {"DeviceSystem": {"Enabled": True, "SystemID": "ours"}}}
MIB = 1024 * 1024


def report(peer: Peer, size: int) -> None:
    """All of a report of `size` bytes but the last one."""
    head = asking(INVENTORY, b"Content-Length: %d" % size, method=b"PUT")
    peer.send(head)
    sent = 0
    while sent < size - 1:
        piece = min(65536, size - 1 - sent)
        try:
            peer.send(b" " * piece)
        except OSError:
            return  # refused meanwhile
        sent += piece


def test_half_sent_reports_do_not_fill_the_memory(start: Start, stage: Stage) -> None:
    """Eighty of nearly 4 MiB each would be 320 MiB; small reports go on."""
    gateway = start(stage.url, SYSTEM)
    before = gateway.resident()
    peers = [connect(gateway.ports["http"]) for _ in range(80)]
    try:
        for peer in peers:
            report(peer, 4 * MIB)
        with connect(gateway.ports["http"]) as other:
            body = json.dumps([{"name": "a", "value": "b"}]).encode()
            other.send(asking(INVENTORY, method=b"PUT", body=body))
            assert other.answer()[0] == 200
        assert gateway.resident() - before < 160 * MIB
        for peer in peers[40:]:
            answer, _ = peer.read_to_end()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 503 "), answer
        gateway.wait_for_log(r"route=inventory .*status=503|status=503 .*route=inventory")
    finally:
        for peer in peers:
            peer.close()

    def large_passes() -> bool:
        with connect(gateway.ports["http"]) as other:
            body = json.dumps([{"name": "a", "value": "b" * 3 * MIB}]).encode()
            other.send(asking(INVENTORY, method=b"PUT", body=body))
            return other.answer()[0] == 200

    eventually(large_passes)


def test_a_report_in_tiny_pieces_costs_no_more_than_its_bytes(start: Start, stage: Stage) -> None:
    """A list of one-byte pieces would be forty times as large as they are."""
    gateway = start(stage.url, SYSTEM)
    before = gateway.resident()
    with connect(gateway.ports["http"]) as peer:
        peer.send(asking(INVENTORY, b"Transfer-Encoding: chunked", method=b"PUT"))
        for _ in range(60_000):
            peer.send(b"1\r\n \r\n")
        peer.send(b"2\r\n[]\r\n0\r\n\r\n")
        assert peer.answer()[0] == 200
    assert stage.of(INVENTORY)[-1].body.strip().startswith(b"[{")
    assert gateway.resident() - before < 20 * MIB
