"""Whether the identity that a device claims agrees with its certificate, as far as is configured.

Pure. Without a rule the holder of any device certificate may claim any identity: Mender's own
gateway works that way, and so do we by default, with a warning.
"""

from collections.abc import Sequence

from mender_gateway.devices.auth_request import AuthRequest
from mender_gateway.net.certificate import ClientCertificate, Unreadable


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
        if not _agrees(str(claimed), certificate, name):
            return f"identity attribute {attribute} is not the certificate's {name}"
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
