"""Our own checks of a chain that OpenSSL has verified: pure decisions, once per handshake.

OpenSSL has checked signatures, path lengths, name constraints, purposes and, unless the operator
chose otherwise, times. On top come the blacklist, revocation lists, key sizes and digests (which
OpenSSL lets pass where old TLS versions are allowed), CA flags without exceptions, and the times
where only the leaf's end may be ignored: OpenSSL's flag for that ignores all of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mender_gateway.net.certificate import Chain, ClientCertificate, Unreadable
from mender_gateway.net.refusal import Reason, Refused
from mender_gateway.net.revocation import Revocations

LONGEST_CHAIN = 10
"""Certificates, leaf and anchor included."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a chain must meet beyond OpenSSL's verification."""

    blacklist: frozenset[int] = frozenset()
    revocations: Revocations | None = None
    crl_required: bool = False
    skip_leaf_expiry: bool = False
    roots: tuple[ClientCertificate, ...] = ()
    """The configured anchors, for renewed ones of the same name and key."""
    clock: Callable[[], float] = time.time

    def check(self, chain: Chain) -> None:
        """Raises Refused for a chain that must not pass."""
        certificates = chain.certificates
        if len(certificates) > LONGEST_CHAIN:
            raise Refused(
                Reason.CHAIN_TOO_LONG, f"{len(certificates)} certificates, at most {LONGEST_CHAIN}"
            )
        self.check_revocation(chain)
        try:
            self._check_strength(certificates)
        except Unreadable as error:
            raise Refused(Reason.MALFORMED, str(error)) from error
        if self.skip_leaf_expiry:
            self._check_times(certificates)

    def check_revocation(self, chain: Chain) -> None:
        """Only what can change while a connection lives: blacklist and lists."""
        for place, each in enumerate(chain.certificates):
            if each.serial in self.blacklist:
                raise Refused(
                    Reason.BLACKLISTED,
                    f"{_which(chain, place)} is on the blacklist: {each.serial_text}",
                )
        revocations = self.revocations
        if revocations is None or not (revocations.lists or self.crl_required):
            return
        now = self.clock()
        line = [*chain.certificates, *self._above(chain.certificates[-1])]
        for place, (each, issuer) in enumerate(pairwise(line)):
            standing = revocations.standing(each, issuer, now)
            if standing.revoked:
                raise Refused(
                    Reason.REVOKED,
                    f"{_which(chain, place)} {each.serial_text} is revoked by {issuer.subject}",
                )
            if self.crl_required and not standing.covered:
                raise Refused(
                    Reason.CRL_MISSING, f"there is no revocation list of {issuer.subject}"
                )
            if self.crl_required and standing.stale:
                raise Refused(
                    Reason.CRL_EXPIRED,
                    f"the revocation list of {issuer.subject} is past its nextUpdate, or from the "
                    "future",
                )

    def _above(self, anchor: ClientCertificate) -> Sequence[ClientCertificate]:
        """The configured CAs above an anchor that is an intermediate itself."""
        found: list[ClientCertificate] = []
        while len(found) < LONGEST_CHAIN and not anchor.is_self_issued:
            above = next((root for root in self.roots if _issued(root, anchor)), None)
            if above is None:
                break
            found.append(above)
            anchor = above
        return found

    def _check_strength(self, certificates: Sequence[ClientCertificate]) -> None:
        for place, each in enumerate(certificates):
            anchor = place + 1 == len(certificates)
            if each.weakness is not None:
                raise Refused(Reason.WEAK_KEY, f"{_role(place, anchor)}: {each.weakness}")
            if anchor:
                continue  # its signature is not what it is trusted for
            if each.weak_digest is not None:
                raise Refused(
                    Reason.WEAK_DIGEST,
                    f"{_role(place, anchor)} is signed with {each.weak_digest.upper()}",
                )
            if place and not each.is_ca:
                raise Refused(Reason.NOT_A_CA, f"{each.subject} is no CA but issued a certificate")

    def _check_times(self, certificates: Sequence[ClientCertificate]) -> None:
        now = self.clock()
        for place, each in enumerate(certificates):
            anchor = place + 1 == len(certificates)
            if place and anchor and any(_renewed(each, root, now) for root in self.roots):
                continue
            if now < each.begins:
                raise Refused(Reason.NOT_YET_VALID, f"{_role(place, anchor)} is not yet valid")
            if place and now > each.ends:
                raise Refused(Reason.EXPIRED, f"{_role(place, anchor)} {each.subject} has expired")


def _issued(issuer: ClientCertificate, issued: ClientCertificate) -> bool:
    try:
        issued.x509.verify_directly_issued_by(issuer.x509)
    except Exception:  # ValueError, TypeError or InvalidSignature: all say no
        return False
    return issuer.der != issued.der


def _renewed(anchor: ClientCertificate, root: ClientCertificate, now: float) -> bool:
    """Whether `root` is the anchor, or another certificate of its name and key, and valid now."""
    return (
        root.begins <= now <= root.ends
        and root.x509.subject == anchor.x509.subject
        and root.public_key == anchor.public_key
    )


def _role(place: int, anchor: bool) -> str:
    return "the certificate" if place == 0 else "the root" if anchor else "an intermediate"


def _which(chain: Chain, place: int) -> str:
    return _role(place, place + 1 >= len(chain.certificates))
