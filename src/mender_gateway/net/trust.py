"""Everything that decides which clients are let in, read from files as one frozen whole.

`load_trust` reads all files and builds new TLS contexts; what it returns replaces what was in force
at one stroke, and when it raises, nothing has changed. Every file is read once and given to OpenSSL
from memory, so that what was checked is what is used, by the contexts that are made later too.
"""

import base64
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mender_gateway.net.certificate import ClientCertificate, Unreadable
from mender_gateway.net.chain import Rules
from mender_gateway.net.held import Held
from mender_gateway.net.presented import watch
from mender_gateway.net.revocation import BadList, RevocationList, Revocations, read_lists
from mender_gateway.net.serials import parse_blacklist
from mender_gateway.net.tls import server_context

_NO_CHECK_TIME = 0x200000
_PARTIAL_CHAIN = 0x80000
"""X509_V_FLAG_* of openssl/x509_vfy.h; the second has a name from Python 3.10 on, as an enum."""
_LARGEST_FILE = 64 * 1024 * 1024
_MOST_LISTS = 256
_BLOCK = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END "
)


class BadTrust(ValueError):
    """A file cannot be used; `what` says which setting named it."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(text)
        self.what = what


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """Paths, and the rules that are settings."""

    certificate: str
    key: str
    roots: str
    minimum: str = "1.2"
    blacklist: str | None = None
    crl: str | None = None
    """A file, or a directory of files."""
    crl_required: bool = False
    skip_leaf_expiry: bool = False

    def watched(self) -> list[str]:
        paths = [self.certificate, self.key, self.roots, self.blacklist, self.crl]
        return [path for path in paths if path is not None]


@dataclass(frozen=True, slots=True)
class Trust:
    """What is in force. `context` shakes hands; `settled` takes over established connections, so
    that the watch on handshakes costs them nothing; `spare` makes a context with no sessions.
    """

    context: ssl.SSLContext
    settled: ssl.SSLContext
    spare: Callable[[], ssl.SSLContext]
    rules: Rules
    warnings: tuple[str, ...] = field(default=())


def load_trust(files: TrustFiles) -> Trust:
    """Read everything. Blocks for the files; raises BadTrust."""
    warnings: list[str] = []
    roots_pem = _read("Features.mTLS.CACertificate", files.roots)
    roots = _roots(files.roots, roots_pem)
    orphans = [root for root in roots if not _is_under(root, roots)]
    warnings += (
        f"Features.mTLS.CACertificate: {each.subject} is an intermediate without its root: "
        "it is trusted as if it were a root"
        for each in orphans
    )
    blacklist: frozenset[int] = frozenset()
    if files.blacklist is not None:
        read = parse_blacklist(_read("Features.mTLS.BlacklistPath", files.blacklist))
        blacklist = read.serials
        warnings += (
            f"Features.mTLS.BlacklistPath: line {number} of {files.blacklist} is no "
            "hexadecimal serial number and is left out"
            for number in read.unreadable
        )
    revocations = _revocations(files, roots, warnings)
    rules = Rules(blacklist, revocations, files.crl_required, files.skip_leaf_expiry, tuple(roots))
    cadata = b"".join(root.der for root in roots)
    pair = (
        _read("HTTPS.ServerCertificate", files.certificate),
        _read("HTTPS.ServerKey", files.key),
    )
    try:
        certificate, key = Held("certificate", pair[0]), Held("key", pair[1])

        def make() -> ssl.SSLContext:
            context = server_context(certificate.path, key.path, files.minimum)
            _require(context, cadata, files, partial=bool(orphans))
            return context

        context, settled = make(), make()
        watch(context)
    except (OSError, ValueError) as error:
        raise BadTrust(
            "HTTPS.ServerCertificate",
            f"{files.certificate} with HTTPS.ServerKey {files.key}: {error}",
        ) from error

    def spare() -> ssl.SSLContext:
        made = make()
        watch(made)
        return made

    return Trust(context, settled, spare, rules, tuple(warnings))


def _require(context: ssl.SSLContext, cadata: bytes, files: TrustFiles, *, partial: bool) -> None:
    """Let a context require client certificates that chain to these roots."""
    context.load_verify_locations(cadata=cadata)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session carries no chain to check again. The cache of TLS 1.2 stays: `net.contexts`.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    flags = int(context.verify_flags)
    if files.skip_leaf_expiry:
        flags |= _NO_CHECK_TIME
    if partial:
        flags |= _PARTIAL_CHAIN
    context.verify_flags = ssl.VerifyFlags(flags)


def _roots(name: str, pem: bytes) -> list[ClientCertificate]:
    found: dict[bytes, ClientCertificate] = {}
    what = "Features.mTLS.CACertificate"
    for number, match in enumerate(_BLOCK.finditer(pem), 1):
        try:
            each = ClientCertificate(base64.b64decode(match[1]))
        except (Unreadable, ValueError) as error:
            raise BadTrust(
                what, f"certificate {number} in {name} cannot be read: {error}"
            ) from error
        found[each.der] = each
    if not found or pem.count(b"-----BEGIN ") > pem.count(b"-----END "):
        raise BadTrust(what, f"{name} holds no whole PEM certificates")
    return list(found.values())


def _is_under(root: ClientCertificate, roots: list[ClientCertificate]) -> bool:
    """Whether the chain from `root` ends in a self-issued certificate of the file."""
    subjects = {each.x509.subject: each for each in roots}
    for _ in range(len(roots) + 1):
        if root.is_self_issued:
            return True
        above = subjects.get(root.x509.issuer)
        if above is None:
            return False
        root = above
    return False


def _revocations(
    files: TrustFiles, roots: list[ClientCertificate], warnings: list[str]
) -> Revocations | None:
    if files.crl is None:
        return Revocations() if files.crl_required else None
    what = "Features.mTLS.CRLPath"
    lists: list[RevocationList] = []
    issuers: list[ClientCertificate] = list(roots)
    try:
        paths = _list_files(files.crl)
        for path in paths:
            more, beside = read_lists(path, _read(what, path))
            lists += more
            issuers += beside
        if len(lists) > _MOST_LISTS:
            raise BadList(f"{files.crl} holds more than {_MOST_LISTS} lists")
        revocations = Revocations(lists, issuers)
    except BadList as error:
        raise BadTrust(what, str(error)) from error
    if not lists:
        warnings.append(f"{what}: there is no list in {files.crl}")
    warnings += (
        f"{what}: the CA of {each.source}, {each.issuer}, is not at hand: the list is verified "
        "when the first device sends that CA; put its certificate beside the list to do it now"
        for each in revocations.deferred
    )
    return revocations


def _list_files(path: str) -> list[str]:
    try:
        if not Path(path).is_dir():
            return [path]
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise BadList(f"cannot read {path}: {error.strerror}") from error
    found = [os.path.join(path, name) for name in names]
    return [each for each in found if os.path.isfile(each)][: _MOST_LISTS + 1]


def _read(what: str, name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadTrust(what, f"cannot read {name}: {reason}") from error
    if len(data) > _LARGEST_FILE:
        raise BadTrust(what, f"{name} is larger than {_LARGEST_FILE} bytes")
    return data
