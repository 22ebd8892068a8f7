"""Just enough of X.509 to read a certificate's dates without a cryptographic library.

A running gateway without mutual TLS does not import `cryptography`, which costs memory; the dates
of its own certificates lie at a fixed place of the DER encoding (RFC 5280 4.1) and are read here.
"""

import base64
import binascii
import re
from datetime import UTC, datetime

_BLOCK = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END "
)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def certificates(pem: bytes) -> list[bytes]:
    """The DER encodings of the certificates in a PEM file, unreadable ones left out."""
    found = []
    for match in _BLOCK.finditer(pem):
        try:
            found.append(base64.b64decode(match[1]))
        except binascii.Error:
            continue
    return found


def validity(der: bytes) -> tuple[float, float]:
    """NotBefore and NotAfter of a certificate in seconds since 1970; raises ValueError."""
    certificate, _ = _value(der, 0, _SEQUENCE)
    fields, _ = _value(certificate, 0, _SEQUENCE)
    at = 0
    if fields[:1] == bytes([_VERSION]):
        at = _value(fields, at, None)[1]
    for _ in ("serial number", "signature algorithm", "issuer"):
        at = _value(fields, at, None)[1]
    dates, _ = _value(fields, at, _SEQUENCE)
    begin, at = _time(dates, 0)
    end, _ = _time(dates, at)
    return begin, end


def _value(data: bytes, at: int, tag: int | None) -> tuple[bytes, int]:
    """The content of the element at `at`, and where the next one begins."""
    if len(data) < at + 2 or (tag is not None and data[at] != tag):
        raise ValueError("no X.509 certificate")
    length, start = data[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size]), start + size
    if start + length > len(data):
        raise ValueError("no X.509 certificate: cut short")
    return data[start : start + length], start + length


def _time(data: bytes, at: int) -> tuple[float, int]:
    """A Time (RFC 5280 4.1.2.5) and where the next element begins."""
    content, after = _value(data, at, None)
    text = content.decode("ascii", "replace")
    if data[at] == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif data[at] != _GENERALIZED_TIME:
        raise ValueError("no X.509 certificate: no date where one belongs")
    if re.fullmatch(r"[0-9]{14}Z", text) is None:
        raise ValueError("no X.509 certificate: a malformed date")
    numbers = [int(text[:4]), *(int(text[place : place + 2]) for place in range(4, 14, 2))]
    return datetime(*numbers, tzinfo=UTC).timestamp(), after  # type: ignore[arg-type,misc]
