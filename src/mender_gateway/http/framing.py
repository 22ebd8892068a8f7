"""Where a message's body ends (RFC 9112 6.3), decided from its fields alone.

The rules are stricter than the RFC where leniency lets two readers disagree: a length beside a
transfer coding, several lengths (equal ones too), and any coding but ``chunked`` are refused.
"""

import enum

import msgspec

from mender_gateway import errors
from mender_gateway.http.headers import Fields

LARGEST = 2**63 - 1
"""Octets; the largest Content-Length that every reader on the way can count."""


class Kind(enum.Enum):
    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How the end of a body is found.

    `length` counts octets: of the body for LENGTH; for NONE what an answer to HEAD or a 304
    declares without sending it; None elsewhere.
    """

    kind: Kind
    length: int | None = None


NONE = Framing(Kind.NONE)
CHUNKED = Framing(Kind.CHUNKED)
UNTIL_CLOSE = Framing(Kind.UNTIL_CLOSE)


def frame_of_request(fields: Fields, version: str) -> Framing:
    """The framing of a request in HTTP `version` ("1.0" or "1.1"): NONE, LENGTH or CHUNKED.

    Raises errors.BadRequest for a framing that two readers could take for two different ones.
    """
    length, coding = _declared(fields, errors.BadRequest)
    if coding:
        if version != "1.1":
            raise errors.BadRequest("Transfer-Encoding in an HTTP/1.0 request")
        return CHUNKED
    return NONE if length is None else Framing(Kind.LENGTH, length)


def frame_of_answer(fields: Fields, status: int, method: bytes, version: str = "1.1") -> Framing:
    """The framing of the answer with `status` to a request with `method`.

    Raises errors.BadGateway for a framing that two readers could take for two different ones.
    """
    if status < 200 or status == 204:
        return NONE
    length, coding = _declared(fields, errors.BadGateway)
    if method == b"HEAD" or status == 304:
        return NONE if length is None else Framing(Kind.NONE, length)
    if coding:
        if version != "1.1":
            raise errors.BadGateway("the upstream sent Transfer-Encoding in an HTTP/1.0 answer")
        return CHUNKED
    return UNTIL_CLOSE if length is None else Framing(Kind.LENGTH, length)


def _declared(
    fields: Fields, refusal: type[errors.BadRequest] | type[errors.BadGateway]
) -> tuple[int | None, bool]:
    """Content-Length, and whether the body is chunked."""
    length: int | None = None
    coding = False
    for name, content in fields:
        size = len(name)
        if size == 14:
            if name.lower() == b"content-length":
                if length is not None:
                    raise refusal("more than one Content-Length")
                # 19 digits hold the largest length; isdigit() of bytes knows ASCII digits only.
                if not content.isdigit() or len(content) > 19:
                    raise refusal("malformed Content-Length")
                length = int(content)
                if length > LARGEST:
                    raise refusal("Content-Length too large")
        elif size == 17 and name.lower() == b"transfer-encoding":
            if coding or content.lower() != b"chunked":
                raise refusal("Transfer-Encoding other than chunked")
            coding = True
    if coding and length is not None:
        raise refusal("Content-Length beside Transfer-Encoding")
    return length, coding
