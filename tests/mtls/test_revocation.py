"""Blacklist and revocation lists: who is refused, what takes effect when, who is cut off."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.mtls.gateways import ask, cut_off, guarded, metric, refused, write_roots
from tests.support.authority import Issued, authority, issue, new_key, revocation_list

EFFECT = 2.0
"""Seconds until a changed file is in force."""


def pem(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(Encoding.PEM)


def replace(path: Path, data: bytes) -> None:
    """As careful administrators do it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)


def within(seconds: float, condition: Callable[[], bool]) -> float:
    """How long it took until `condition`; fails after `seconds` and a second for slow machines.

    A machine with more to do than it has processors gets as much more time.
    """
    began = time.monotonic()
    while not condition():
        crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - began < seconds * crowd + 1, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_blacklisted_device_is_refused_in_any_spelling_and_others_are_not(tmp_path: Path) -> None:
    root = authority("Root")
    devices = [issue(f"device {number}", root) for number in range(5)]
    spellings = [
        f"{devices[0].serial:X}",
        "0x" + f"{devices[1].serial:x}",
        ":".join(f"{devices[2].serial:040X}"[place : place + 2] for place in range(0, 40, 2)),
        f"  000{devices[3].serial:x}  # lost",
    ]
    blacklist = tmp_path / "blacklist"
    blacklist.write_text("\n".join(["# ours", "not a serial", *spellings]))
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        guard.gateway.wait_for_log(r"line 2 of \S*blacklist is no hexadecimal serial number")
        assert [guard.ask(device) for device in devices] == [None, None, None, None, 200]
        for device in devices[:4]:
            guard.gateway.wait_for_log(
                rf'msg="TLS client refused" .*reason=blacklisted .*serial=0*{device.serial:X} '
            )


def test_a_blacklisted_intermediate_takes_its_devices_with_it(tmp_path: Path) -> None:
    root = authority("Root")
    bad, good = authority("Bad", root), authority("Good", root)
    blacklist = tmp_path / "blacklist"
    blacklist.write_text(f"{bad.serial:x}")
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        assert guard.ask(issue("a", bad).with_chain(bad)) is None
        assert guard.ask(issue("b", good).with_chain(good)) == 200


def test_a_device_that_is_blacklisted_loses_its_open_connections(tmp_path: Path) -> None:
    root = authority("Root")
    lost, kept = issue("lost", root), issue("kept", root)
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        idle, peer = guard.connect(lost), guard.connect(kept)
        assert ask(idle) == ask(peer) == 200
        replace(blacklist, f"{lost.serial:x}\n".encode())
        began = time.monotonic()
        assert cut_off(idle)
        assert time.monotonic() - began < 5
        within(EFFECT, lambda: guard.ask(lost) is None)
        assert ask(peer) == 200, "another device's connection was dropped"
        guard.gateway.wait_for_log(
            rf'msg="connection cut: .*reason=blacklisted .*serial=0*{lost.serial:X} '
        )
        peer.close()
        idle.close()
        # And forgiven again, with the file changed in place.
        blacklist.write_text("# nobody\n")
        within(EFFECT, lambda: guard.ask(lost) == 200)


def test_an_open_websocket_ends_with_its_certificate_and_no_other(tmp_path: Path) -> None:
    root = authority("Root")
    lost, kept = issue("lost", root), issue("kept", root)
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        tunnels = [guard.connect(lost), guard.connect(kept)]
        for tunnel in tunnels:
            tunnel.send(
                b"GET /api/devices/v1/deviceconnect/connect HTTP/1.1\r\nHost: gateway\r\n"
                b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            assert tunnel.read_head().startswith(b"HTTP/1.1 101 ")
            tunnel.send(b"ping")
            assert tunnel.read_exactly(4) == b"ping"
        replace(blacklist, f"{lost.serial:x}".encode())
        began = time.monotonic()
        assert cut_off(tunnels[0])
        assert time.monotonic() - began < 5
        tunnels[1].send(b"pong")
        assert tunnels[1].read_exactly(4) == b"pong"
        for tunnel in tunnels:
            tunnel.close()


def test_a_bad_new_file_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    root = authority("Root")
    revoked, device = issue("revoked", root), issue("device", root)
    crl = tmp_path / "ca.crl"
    crl.write_bytes(pem(revocation_list(root, [revoked.serial])))
    blacklist = tmp_path / "blacklist"
    blacklist.touch()
    with guarded(tmp_path, [root], CRLPath=str(crl), BlacklistPath=str(blacklist)) as guard:
        roots = tmp_path / "roots.pem"
        cases = [
            (crl, b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "CRLPath"),
            (roots, b"no certificate\n", "CACertificate"),
            (tmp_path / "server" / "server.key", new_key_pem(), "KEY_VALUES_MISMATCH"),
        ]
        for path, bad, word in cases:
            good = path.read_bytes()
            replace(path, bad)
            guard.gateway.wait_for_log(rf'msg="reload failed, .*{word}')
            assert guard.ask(device) == 200
            assert guard.ask(revoked) is None
            replace(path, good)
        blacklist.unlink()
        guard.gateway.wait_for_log('msg="reload failed, .*BlacklistPath')
        assert guard.ask(device) == 200
        blacklist.write_text(f"{device.serial:x}")
        within(EFFECT, lambda: guard.ask(device) is None)


def new_key_pem() -> bytes:
    return issue("x", key=new_key("p256")).key_pem


def test_roots_and_server_certificates_are_exchanged_without_dropping_anyone(
    tmp_path: Path,
) -> None:
    old, new = authority("Old"), authority("New")
    before, after = issue("before", old), issue("after", new)
    with guarded(tmp_path, [old]) as guard:
        peer = guard.connect(before)
        assert ask(peer) == 200
        assert guard.ask(after) is None
        write_roots(tmp_path / "roots.pem", old, new)
        within(EFFECT, lambda: guard.ask(after) == 200)
        assert guard.ask(before) == 200
        fresh = issue("server", key=new_key("p256"))
        certificate, key = fresh.write(tmp_path / "fresh", "server")
        os.replace(key, tmp_path / "server" / "server.key")
        os.replace(certificate, tmp_path / "server" / "server.crt")

        def shows_the_new_one() -> bool:
            with guard.connect(before).sock as sock:
                return sock.getpeercert(True) == fresh.certificate.public_bytes(Encoding.DER)  # type: ignore[attr-defined,no-any-return]

        within(EFFECT, shows_the_new_one)
        write_roots(tmp_path / "roots.pem", new)
        within(EFFECT, lambda: guard.ask(before) is None)
        assert ask(peer) == 200, "an open connection was dropped"
        peer.close()


def test_lists_of_the_root_and_of_an_intermediate_are_obeyed(tmp_path: Path) -> None:
    root = authority("Root")
    first, second = authority("First", root), authority("Second", root)
    stranger = authority("No List")
    devices = {
        "good": (issue("good", first).with_chain(first), 200),
        "revoked": (issue("revoked", first).with_chain(first), None),
        "under revoked": (issue("under", second).with_chain(second), None),
        "revoked by root": (issue("direct", root), None),
        "no list": (issue("free", stranger), 200),
    }
    folder = tmp_path / "crls"
    folder.mkdir()
    serials = [second.serial, devices["revoked by root"][0].serial]
    (folder / "root.crl").write_bytes(revocation_list(root, serials).public_bytes(Encoding.DER))
    revoked = devices["revoked"][0].serial
    # The same serial number, revoked by one CA, is another device's under another CA.
    devices["same serial"] = (issue("same serial", root, serial=revoked), 200)
    (folder / "first.pem").write_bytes(pem(revocation_list(first, [revoked])))
    with guarded(tmp_path, [root, stranger], CRLPath=str(folder)) as guard:
        guard.gateway.wait_for_log(r"CRLPath: the CA of \S*first.pem, CN=First, is not at hand")
        assert {name: guard.ask(device) for name, (device, _) in devices.items()} == {
            name: expected for name, (_, expected) in devices.items()
        }
        guard.gateway.wait_for_log(rf"reason=revoked .*serial=0*{revoked:X} ")


def test_a_device_that_is_revoked_by_a_new_list_is_cut_off(tmp_path: Path) -> None:
    root = authority("Root")
    device = issue("device", root)
    crl = tmp_path / "ca.crl"
    crl.write_bytes(pem(revocation_list(root, [])))
    with guarded(tmp_path, [root], CRLPath=str(crl)) as guard:
        peer = guard.connect(device)
        assert ask(peer) == 200
        replace(crl, pem(revocation_list(root, [device.serial])))
        began = time.monotonic()
        assert cut_off(peer)
        assert time.monotonic() - began < 5
        assert guard.ask(device) is None
        peer.close()


def forged(root: Issued) -> bytes:
    return pem(revocation_list(root, [], key=new_key("p256")))


def delta(root: Issued) -> bytes:
    return pem(revocation_list(root, [], extensions=[(x509.DeltaCRLIndicator(1), True)]))


def unknown(root: Issued) -> bytes:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return pem(revocation_list(root, [], extensions=[(extension, True)]))


def scope(**options: Any) -> list[tuple[x509.ExtensionType, bool]]:
    """The extension by which a list says of what it speaks."""
    nothing: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return [(x509.IssuingDistributionPoint(**(nothing | options)), True)]


def indirect(root: Issued) -> bytes:
    return pem(revocation_list(root, [], extensions=scope(indirect_crl=True)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (forged, "is not signed by that CA"),
        (delta, "delta list"),
        (unknown, "critical extension 1.2.3.4"),
        (indirect, "indirect list"),
        (lambda root: b"nothing", "no usable revocation list"),
        (lambda root: root.pem, "holds no revocation list"),
    ],
)
def test_a_list_that_cannot_be_believed_stops_the_start(
    make: Callable[[Issued], bytes], text: str, tmp_path: Path
) -> None:
    root = authority("Root")
    crl = tmp_path / "ca.crl"
    crl.write_bytes(make(root))
    with pytest.raises(AssertionError, match=rf"CRLPath: .*{text}"):
        with guarded(tmp_path, [root], CRLPath=str(crl)):
            pass


def test_a_list_of_a_namesake_is_not_that_of_the_ca(tmp_path: Path) -> None:
    """An intermediate's list, verified when the device shows up, is not signed by its CA."""
    root = authority("Root")
    intermediate, namesake = authority("Name", root), authority("Name")
    device = issue("device", intermediate).with_chain(intermediate)
    crl = tmp_path / "ca.crl"
    crl.write_bytes(pem(revocation_list(namesake, [device.serial])))
    with guarded(tmp_path, [root], CRLPath=str(crl)) as guard:
        assert guard.ask(device) == 200


def test_a_stale_list_stays_in_force_and_is_counted(tmp_path: Path) -> None:
    root = authority("Root")
    revoked, device = issue("revoked", root), issue("device", root)
    crl = tmp_path / "ca.crl"
    crl.write_bytes(pem(revocation_list(root, [revoked.serial], days=(-9, -1))))
    with guarded(tmp_path, [root], CRLPath=str(crl)) as guard:
        guard.gateway.wait_for_log(r"level=warning msg=.*past its nextUpdate")
        assert guard.ask(revoked) is None
        assert guard.ask(device) == 200
        assert metric(guard, "mender_gateway_crl_stale") == 1
        assert refused(guard, "revoked") == 1


def test_required_lists_must_be_there_and_fresh(tmp_path: Path) -> None:
    fresh, stale, without = authority("Fresh"), authority("Stale"), authority("Without")
    folder = tmp_path / "crls"
    folder.mkdir()
    (folder / "fresh").write_bytes(pem(revocation_list(fresh, [])))
    (folder / "stale").write_bytes(pem(revocation_list(stale, [], days=(-9, -1))))
    roots = [fresh, stale, without]
    with guarded(tmp_path, roots, CRLPath=str(folder), CRLRequired=True) as guard:
        assert [guard.ask(issue("device", root)) for root in roots] == [200, None, None]
        guard.gateway.wait_for_log("reason=crl-expired")
        guard.gateway.wait_for_log("reason=crl-missing")
        replace(folder / "without", pem(revocation_list(without, [])))
        within(EFFECT, lambda: guard.ask(issue("device", without)) == 200)


def test_a_list_from_the_future_revokes_but_is_no_proof_that_others_are_not(
    tmp_path: Path,
) -> None:
    soon, later = authority("Soon"), authority("Later")
    revoked = issue("revoked", later)
    folder = tmp_path / "crls"
    folder.mkdir()
    minute = 1 / 24 / 60  # the clock of a CA may be ahead
    (folder / "soon").write_bytes(pem(revocation_list(soon, [], days=(minute, 7))))
    (folder / "later").write_bytes(pem(revocation_list(later, [revoked.serial], days=(1, 7))))
    with guarded(tmp_path, [soon, later], CRLPath=str(folder), CRLRequired=True) as guard:
        devices = [issue("a", soon), issue("b", later), revoked]
        assert [guard.ask(device) for device in devices] == [200, None, None]
        guard.gateway.wait_for_log('reason=crl-expired .*subject="?CN=b"? ')
        guard.gateway.wait_for_log('reason=revoked .*subject="?CN=revoked"? ')
        assert metric(guard, "mender_gateway_crl_stale") == 1


def test_a_list_counts_for_the_certificates_that_it_speaks_of(tmp_path: Path) -> None:
    scopes = {
        "users": scope(only_contains_user_certs=True),
        "CAs": scope(only_contains_ca_certs=True),
        "some reasons": scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
    }
    roots = {name: authority(name) for name in scopes}
    folder = tmp_path / "crls"
    folder.mkdir()
    listed = {name: issue("revoked", root) for name, root in roots.items()}
    for name, extensions in scopes.items():
        lists = revocation_list(roots[name], [listed[name].serial], extensions=extensions)
        (folder / name.replace(" ", "-")).write_bytes(pem(lists))
    all_roots = list(roots.values())
    with guarded(tmp_path, all_roots, CRLPath=str(folder), CRLRequired=True) as guard:
        found = {name: guard.ask(issue("device", root)) for name, root in roots.items()}
        assert found == {"users": 200, "CAs": None, "some reasons": None}
        assert [guard.ask(device) for device in listed.values()] == [None] * 3
        assert refused(guard, "crl-missing") == 2
        assert refused(guard, "revoked") == 3


def test_a_large_blacklist_takes_effect_in_time(tmp_path: Path) -> None:
    root = authority("Root")
    device, other = issue("device", root), issue("other", root)
    blacklist = tmp_path / "blacklist"
    lines = [f"{number:040X}" for number in range(1, 200_000)]
    blacklist.write_text("\n".join(lines))
    with guarded(tmp_path, [root], BlacklistPath=str(blacklist)) as guard:
        assert guard.ask(device) == guard.ask(other) == 200
        replace(blacklist, "\n".join([*lines, f"{device.serial:X}"]).encode())
        within(EFFECT, lambda: guard.ask(device) is None)
        assert guard.ask(other) == 200


def test_a_secret_mounted_by_kubernetes_is_seen_to_change(tmp_path: Path) -> None:
    """`..data` is a link to a directory, and is replaced by another link."""
    root = authority("Root")
    device = issue("device", root)
    mount = tmp_path / "mount"
    for name, text in (("..one", ""), ("..two", f"{device.serial:x}")):
        (mount / name).mkdir(parents=True)
        (mount / name / "blacklist").write_text(text)
    (mount / "..data").symlink_to("..one")
    (mount / "blacklist").symlink_to("..data/blacklist")
    with guarded(tmp_path, [root], BlacklistPath=str(mount / "blacklist")) as guard:
        peer = guard.connect(device)
        assert ask(peer) == 200
        (mount / "..new").symlink_to("..two")
        os.replace(mount / "..new", mount / "..data")
        assert cut_off(peer)
        within(EFFECT, lambda: guard.ask(device) is None)
        peer.close()
