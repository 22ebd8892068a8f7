"""Why a client was not let in: a closed set of reasons, for the log line and as metrics label."""

import ssl
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mender_gateway.net.certificate import ClientCertificate


class Reason(StrEnum):
    NO_CERTIFICATE = "no-certificate"
    UNKNOWN_CA = "unknown-ca"
    BAD_SIGNATURE = "bad-signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    NOT_A_CA = "not-a-ca"
    PATH_LENGTH = "path-length"
    NAME_CONSTRAINT = "name-constraint"
    PURPOSE = "purpose"
    WEAK_KEY = "weak-key"
    WEAK_DIGEST = "weak-digest"
    MALFORMED = "malformed"
    CHAIN_TOO_LONG = "chain-too-long"
    BLACKLISTED = "blacklisted"
    REVOKED = "revoked"
    CRL_MISSING = "crl-missing"
    CRL_EXPIRED = "crl-expired"
    RESUMED = "resumed-session"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    """TLS did not get as far as a certificate: old versions, no common cipher, no TLS at all."""
    GONE = "gone"
    """The client ended the connection: a probe of a load balancer, or it distrusts the server."""
    OTHER = "other"


class Refused(ConnectionError):
    """The client is not let in: OpenSSL or our own checks refuse what it shows."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.shown: ClientCertificate | None = None
        """The certificate in question, not verified, where it can be had and read."""


# X509_V_ERR_* of openssl/x509_vfy.h.
_BY_VERIFY_CODE = {
    2: Reason.UNKNOWN_CA,
    4: Reason.MALFORMED,
    6: Reason.MALFORMED,
    7: Reason.BAD_SIGNATURE,
    9: Reason.NOT_YET_VALID,
    10: Reason.EXPIRED,
    13: Reason.MALFORMED,
    14: Reason.MALFORMED,
    18: Reason.UNKNOWN_CA,
    19: Reason.UNKNOWN_CA,
    20: Reason.UNKNOWN_CA,
    21: Reason.UNKNOWN_CA,
    22: Reason.CHAIN_TOO_LONG,
    24: Reason.NOT_A_CA,
    25: Reason.PATH_LENGTH,
    26: Reason.PURPOSE,
    29: Reason.UNKNOWN_CA,
    30: Reason.UNKNOWN_CA,
    31: Reason.UNKNOWN_CA,
    32: Reason.NOT_A_CA,
    34: Reason.MALFORMED,
    37: Reason.NOT_A_CA,
    41: Reason.MALFORMED,
    42: Reason.MALFORMED,
    47: Reason.NAME_CONSTRAINT,
    48: Reason.NAME_CONSTRAINT,
    49: Reason.NAME_CONSTRAINT,
    50: Reason.NAME_CONSTRAINT,
    51: Reason.NAME_CONSTRAINT,
    52: Reason.NAME_CONSTRAINT,
    53: Reason.NAME_CONSTRAINT,
    66: Reason.WEAK_KEY,
    67: Reason.WEAK_KEY,
    68: Reason.WEAK_DIGEST,
    79: Reason.NOT_A_CA,
}
_BY_SSL_REASON = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.NO_CERTIFICATE,
    "CERTIFICATE_VERIFY_FAILED": Reason.OTHER,
    "EXCESSIVE_MESSAGE_SIZE": Reason.CHAIN_TOO_LONG,
    "EE_KEY_TOO_SMALL": Reason.WEAK_KEY,
    "CA_KEY_TOO_SMALL": Reason.WEAK_KEY,
    "CA_MD_TOO_WEAK": Reason.WEAK_DIGEST,
    "BAD_SIGNATURE": Reason.BAD_SIGNATURE,
    "TLSV1_ALERT_UNKNOWN_CA": Reason.GONE,
    "SSLV3_ALERT_BAD_CERTIFICATE": Reason.GONE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": Reason.GONE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": Reason.GONE,
    "UNEXPECTED_EOF_WHILE_READING": Reason.GONE,
}


def reason_of(error: Exception) -> Reason:
    """The reason behind a failed handshake or a refusal."""
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, Reason.OTHER)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in _BY_SSL_REASON:
            return _BY_SSL_REASON[reason]
        if isinstance(error, ssl.SSLEOFError):
            return Reason.GONE
        # For some errors of its libraries OpenSSL has no reason, but a name of the library.
        whole = f"{reason} {error}"
        return Reason.MALFORMED if "ASN1" in whole or "DECODE" in whole else Reason.PROTOCOL
    return Reason.GONE


def text_of(error: Exception) -> str:
    """The same in words for an operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return "the handshake was not finished in time"
    return str(error) or type(error).__name__
