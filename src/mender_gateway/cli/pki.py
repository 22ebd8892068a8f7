"""`mender-gateway pki`: certificates for trying out mutual TLS, explained while they are made.

Not a production authority: its keys are unprotected files. What it makes has the right extensions,
and is ready for this gateway and for a mender-client.
"""

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from mender_gateway.errors import ConfigError

if TYPE_CHECKING:
    from mender_gateway.cli.pki_folder import PkiFolder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,62}")
_KINDS = ("p256", "p384", "rsa", "ed25519")
_DEVICE_CA = "device-ca"


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Certificates for development: a root for devices, one for the server, and what they "
        "issue. NOT for production: the private keys are unprotected files."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make the folder with its two roots")
    init.add_argument(
        "--add-root", metavar="NAME", type=_name, help="add another device root to the folder"
    )
    init.add_argument("--days", type=_days, default=3650, help="(3650)")
    server = actions.add_parser("server", help="the gateway's own certificate")
    server.add_argument("hosts", nargs="+", metavar="HOST", help="names or addresses of it")
    server.add_argument("--days", type=_days, default=825, help="(825)")
    device = actions.add_parser("device", help="a certificate for a device")
    device.add_argument("name", type=_name)
    device.add_argument("--key", choices=_KINDS, default="p256", help="(p256)")
    device.add_argument("--by", metavar="CA", type=_name, default=_DEVICE_CA, help="(device-ca)")
    device.add_argument("--days", type=_days, default=825, help="(825)")
    intermediate = actions.add_parser("intermediate", help="a CA between root and devices")
    intermediate.add_argument("name", type=_name)
    intermediate.add_argument("--by", metavar="CA", type=_name, default=_DEVICE_CA)
    intermediate.add_argument("--days", type=_days, default=1825, help="(1825)")
    revoke = actions.add_parser(
        "revoke", help="revoke certificates; without a name, renew the revocation lists"
    )
    revoke.add_argument("names", nargs="*", metavar="NAME", help="of a device or CA, or a file")
    for action in (init, server, device, intermediate, revoke):
        action.add_argument("--folder", metavar="DIR", type=Path, default=Path("pki"), help="(pki)")


def run(options: Namespace) -> int:
    """Make what was asked for; 1 and a line on stderr when that cannot be."""
    from mender_gateway.cli.pki_folder import PkiFolder

    folder = PkiFolder(options.folder.absolute())
    action = {
        "init": _init,
        "server": _server,
        "device": _device,
        "intermediate": _intermediate,
        "revoke": _revoke,
    }[options.action]
    try:
        action(folder, options)
    except ConfigError as error:
        print(f"mender-gateway pki: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"mender-gateway pki: cannot do that: {error}", file=sys.stderr)
        return 1
    return 0


def _init(folder: "PkiFolder", options: Namespace) -> None:
    if options.add_root:
        path = folder.make_root(options.add_root, options.days)
        _say(
            f"{path}\n  another root for devices; it was added to {folder.roots}, which a running "
            "gateway reads by itself. Devices of the old and of the new root are let in.",
            f"Next: mender-gateway pki device NAME --by {options.add_root}",
        )
        return
    server = folder.make_root("server-ca", options.days)
    device = folder.make_root(_DEVICE_CA, options.days)
    _say(
        f"{server}\n  the root that signs the gateway's own certificate: goes to every device, as "
        "ServerCertificate in its mender.conf.",
        f"{device}\n  the root that signs the devices' certificates.",
        f"{folder.roots}\n  all roots of devices, for Features.mTLS.CACertificate.",
        f"{folder.lists}\n  a revocation list of each CA, for Features.mTLS.CRLPath.",
        f"{folder.blacklist}\n  serial numbers, for Features.mTLS.BlacklistPath.",
        "This is for DEVELOPMENT: whoever reads the .key files can make devices. For production "
        "keep the root's key offline, and let an intermediate in a real PKI issue certificates.",
        f"Next: mender-gateway pki server gateway.example.com --folder {folder.path}",
    )


def _server(folder: "PkiFolder", options: Namespace) -> None:
    path = folder.make_server(options.hosts, options.days)
    _say(
        f"{path}\n{path.with_suffix('.key')}\n  the gateway's certificate, valid for "
        f"{', '.join(options.hosts)}: devices must reach it under one of these.",
        "In mender-gateway.conf:\n" + _gateway_lines(folder),
        f"Next: mender-gateway pki device NAME --folder {folder.path}",
    )


def _device(folder: "PkiFolder", options: Namespace) -> None:
    path = folder.make_device(options.name, options.key, options.by, options.days)
    chain = (
        "the certificate, followed by its intermediate: the device sends both, since the gateway "
        "knows only the root"
        if options.by != _DEVICE_CA and folder.authority(options.by).chain
        else "the certificate"
    )
    _say(
        f"{path}\n  {chain}.",
        f"{path.with_suffix('.key')}\n  its private key; it belongs on the device and nowhere "
        "else.",
        "In the device's mender.conf, with the files copied there:\n"
        '  "ServerURL": "https://HOST:PORT",\n'
        f'  "ServerCertificate": "{folder.server_ca}",\n'
        f'  "HttpsClient": {{"Certificate": "{path}", "Key": "{path.with_suffix(".key")}"}}',
        "The device authenticates with that key too, unless Security.AuthPrivateKey names another.",
    )


def _intermediate(folder: "PkiFolder", options: Namespace) -> None:
    path = folder.make_intermediate(options.name, options.by, options.days)
    _say(
        f"{path}\n  a CA that may issue certificates for devices, and no further CA. The gateway "
        "need not know it: devices send it along with their certificate.",
        f"Next: mender-gateway pki device NAME --by {options.name} --folder {folder.path}",
    )


def _revoke(folder: "PkiFolder", options: Namespace) -> None:
    if not options.names:
        lists = "\n".join(map(str, folder.refresh()))
        _say(f"{lists}\n  signed anew, for another 30 days.")
        return
    for name in options.names:
        certificate = folder.certificate_of(name)
        path = folder.revoke(certificate)
        _say(
            f"{certificate.subject.rfc4514_string()}, serial {certificate.serial_number:X}\n"
            f"  revoked in {path}\n  and on {folder.blacklist}. A running gateway refuses it "
            "within two seconds and cuts its open connections."
        )


def _gateway_lines(folder: "PkiFolder") -> str:
    key = folder.server.with_suffix(".key")
    return (
        f'  "HTTPS": {{"Enabled": true, "ServerCertificate": "{folder.server}", '
        f'"ServerKey": "{key}"}},\n'
        f'  "Features": {{"mTLS": {{"Enabled": true, "CACertificate": "{folder.roots}", '
        f'"BlacklistPath": "{folder.blacklist}", "CRLPath": "{folder.lists}", '
        '"MenderUsername": "…", "MenderPassword": "…"}}'
    )


def _say(*paragraphs: str) -> None:
    print("\n".join(paragraphs))


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is no name; use letters, digits and ._:@-")
    return text


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:
        raise ArgumentTypeError(f"{text!r} is no number of days")
    return int(text)
