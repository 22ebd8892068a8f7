"""Certificate revocation lists (RFC 5280 5), checked by us on a verified chain.

OpenSSL's own CRL flags refuse every device of a CA that has no list, so they stay off. A list whose
issuer is among the configured roots, or among certificates in the CRL files themselves, is verified
when it is loaded; one of an intermediate that only devices send is verified when the first device
sends it. All lists of one issuer count together: being in any of them is being revoked, so an older
file left lying about can never let a device in again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from mender_gateway.net.certificate import ClientCertificate

_PEM = b"-----BEGIN "
_KNOWN_CRITICAL = frozenset(
    {x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid, x509.IssuingDistributionPoint.oid}
)
_MOST_VERDICTS = 4096
_SKEW = 300.0
"""Seconds by which the clock of a CA may be ahead of ours."""


class BadList(ValueError):
    """A file that cannot serve as revocation list."""


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    source: str
    """The file it came from."""
    crl: x509.CertificateRevocationList
    issuer: str
    serials: frozenset[int]
    this_update: float
    """Seconds since 1970."""
    next_update: float | None
    users: bool = True
    authorities: bool = True
    """Whether it says anything of devices, and of CAs (RFC 5280 5.2.5)."""

    def is_stale(self, now: float) -> bool:
        """Past its end, or before its beginning: no word on who is revoked now."""
        over = self.next_update is not None and now > self.next_update
        return over or now < self.this_update - _SKEW

    def covers(self, certificate: ClientCertificate) -> bool:
        return self.authorities if certificate.is_ca else self.users

    def is_signed_by(self, issuer: ClientCertificate) -> bool:
        """Whether that CA made the list; costs a signature verification."""
        certificate = issuer.x509
        try:
            if certificate.subject != self.crl.issuer or not _may_sign(certificate):
                return False
            key = certificate.public_key()
            return self.crl.is_signature_valid(key)  # type: ignore[arg-type]
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.crl_sign


def read_lists(source: str, data: bytes) -> tuple[list[RevocationList], list[ClientCertificate]]:
    """The lists in a PEM or DER file, and CA certificates that stand beside them in a PEM file.

    Raises BadList, which names `source`.
    """
    blocks = _blocks(data) if _PEM in data else [(b"X509 CRL", data)]
    lists: list[RevocationList] = []
    issuers: list[ClientCertificate] = []
    try:
        for label, block in blocks:
            if label == b"X509 CRL":
                lists.append(_read(source, block))
            elif label == b"CERTIFICATE":
                issuers.append(ClientCertificate(x509_der(block)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadList(f"{source} is no usable revocation list: {error}") from error
    if not lists:
        raise BadList(f"{source} holds no revocation list (-----BEGIN X509 CRL-----)")
    return lists, issuers


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    at = data.find(_PEM)
    while at >= 0:
        label = data[at + len(_PEM) : data.find(b"-----", at + len(_PEM))]
        mark = b"-----END " + label + b"-----"
        end = data.find(mark, at)
        if end < 0:
            raise ValueError("a PEM block is cut short")
        found.append((label, data[at : end + len(mark)]))
        at = data.find(_PEM, end)
    return found


def x509_der(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _read(source: str, block: bytes) -> RevocationList:
    load = x509.load_pem_x509_crl if _PEM in block else x509.load_der_x509_crl
    crl = load(block)
    users = authorities = True
    for extension in crl.extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            raise ValueError("it is a delta list; give the complete one")
        if isinstance(value, x509.IssuingDistributionPoint):
            if value.indirect_crl:
                raise ValueError("it is an indirect list; give one made by the CA itself")
            partial = value.only_contains_attribute_certs or value.only_some_reasons is not None
            users = not (value.only_contains_ca_certs or partial)
            authorities = not (value.only_contains_user_certs or partial)
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            raise ValueError(f"its critical extension {extension.oid.dotted_string} is unknown")
    until = crl.next_update_utc
    return RevocationList(
        source,
        crl,
        crl.issuer.rfc4514_string(),
        frozenset(entry.serial_number for entry in crl),
        crl.last_update_utc.astimezone(UTC).timestamp(),
        until.astimezone(UTC).timestamp() if until is not None else None,
        users,
        authorities,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What the lists say of one certificate."""

    revoked: bool = False
    covered: bool = False
    """There is a list of its issuer for certificates like this one."""
    stale: bool = False
    """No such list is up to date."""


class Revocations:
    """All lists in force; remembers which CA signed which, so that a check is a set lookup."""

    def __init__(
        self, lists: Sequence[RevocationList] = (), known: Iterable[ClientCertificate] = ()
    ) -> None:
        """Raises BadList when a known CA has the issuer's name, and none of those signed it."""
        self.lists = tuple(lists)
        self._verdicts: dict[tuple[int, bytes], bool] = {}
        known = list(known)
        self.deferred: list[RevocationList] = []
        """Lists whose issuer is not at hand yet."""
        for each in self.lists:
            namesakes = [ca for ca in known if ca.x509.subject == each.crl.issuer]
            if not namesakes:
                self.deferred.append(each)
            elif not any(self._signed(each, ca) for ca in namesakes):
                raise BadList(f"{each.source}: the list of {each.issuer} is not signed by that CA")

    def standing(
        self, certificate: ClientCertificate, issuer: ClientCertificate, now: float
    ) -> Standing:
        """What the lists of `issuer` say of `certificate`; `now` in seconds since 1970."""
        own = [each for each in self.lists if self._signed(each, issuer)]
        meant = [each for each in own if each.covers(certificate)]
        return Standing(
            any(certificate.serial in each.serials for each in own),
            bool(meant),
            all(each.is_stale(now) for each in meant),
        )

    def stale(self, now: float) -> list[RevocationList]:
        return [each for each in self.lists if each.is_stale(now)]

    def _signed(self, each: RevocationList, issuer: ClientCertificate) -> bool:
        key = (id(each), issuer.der)
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= _MOST_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[key] = each.is_signed_by(issuer)
        return verdict
