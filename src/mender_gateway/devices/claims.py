"""Whether the identity that a device claims agrees with its certificate, as far as is configured.

Pure. Without a rule the holder of any device certificate may claim any identity: Mender's own
gateway works that way, and so do we by default, with a warning.
"""

from collections.abc import Sequence
from typing import Any

from mender_gateway.devices.auth_request import AuthRequest
from mender_gateway.net.certificate import ClientCertificate, Unreadable

_EXACT = 2**53
"""From here on the server, which reads numbers as Go does, takes different ones for the same."""


def disagreement(
    request: AuthRequest,
    certificate: ClientCertificate,
    *,
    matching_key: bool,
    fields: Sequence[tuple[str, str]],
) -> str | None:
    """What of the request contradicts the certificate, in words, or None.

    `matching_key`: the auth key must be the certificate's. `fields`: identity attribute and
    certificate field, CN, serial or SAN, which must agree.
    """
    if matching_key:
        try:
            same = certificate.public_key == request.public_key
        except Unreadable:
            same = False
        if not same:
            return "the auth key is not the key of the TLS certificate"
    for attribute, name in fields:
        claimed = request.attributes.get(attribute)
        if claimed is None:
            return f"the identity has no attribute {attribute}"
        text = _text(claimed)
        if text is None:
            return f"identity attribute {attribute} is neither text nor a whole number"
        if not _agrees(text, certificate, name):
            return f"identity attribute {attribute} is not the certificate's {name}"
    return None


def _text(claimed: Any) -> str | None:
    """A value that has one spelling alone, or None."""
    if isinstance(claimed, str):
        return claimed
    if type(claimed) is int and abs(claimed) < _EXACT:
        return str(claimed)
    return None


def _agrees(claimed: str, certificate: ClientCertificate, name: str) -> bool:
    match name:
        case "CN":
            # One value, or there is no telling which of them the certificate's owner vouches for.
            return certificate.common_names() == [claimed]
        case "serial":
            digits = claimed.lower().removeprefix("0x").replace(":", "").lstrip("0")
            return digits == f"{certificate.serial:x}"
        case _:
            return claimed in certificate.alternative_names()
