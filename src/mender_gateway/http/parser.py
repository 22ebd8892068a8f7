"""Heads are read strictly: llhttp says whether one is well-formed, this module what it means.

llhttp is given exactly one head at a time, never a body and never the next message, so that it and
this module cannot disagree about where a message ends. What it lets pass is refused here: versions
other than 1.0 and 1.1, anything but one Host in 1.1, Transfer-Encoding other than `chunked` or in
1.0, a Content-Length beside it or twice (RFC 9112 6.3, request smuggling), line ends before the
method, of which llhttp skips any number, and heads of very many fields, which cost too much time.
"""

import httptools

from mender_gateway.errors import BadGateway, BadRequest, HeadTooLarge
from mender_gateway.http.message import CHUNKED, UNTIL_CLOSE, Answer, Request, type_of_fields

_VERSIONS = {b"HTTP/1.1": 11, b"HTTP/1.0": 10}
_LONGEST = 2**63 - 1
_MOST_FIELDS = 512
"""Reading and forwarding one takes about 3 µs of everybody's time; clients send a dozen."""
_ONLY_ONCE = (b"host", b"content-length", b"transfer-encoding")
_LISTS = (b"connection", b"upgrade", b"expect")
_CONTROLS = bytes(byte for byte in range(32) if byte != 9) + b"\x7f"


class _Seen:
    """What llhttp's callbacks say."""

    __slots__ = ("complete", "head")

    def __init__(self) -> None:
        self.head = False
        self.complete = False

    def on_headers_complete(self) -> None:
        self.head = True

    def on_message_complete(self) -> None:
        self.complete = True


class HeadChecker:
    """llhttp over the heads of one connection; made anew after a message with a body."""

    __slots__ = ("_kind", "_parser", "_seen")

    def __init__(
        self, kind: type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]
    ) -> None:
        self._kind = kind
        self._parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None
        self._seen = _Seen()

    def check(self, head: bytes) -> str | None:
        """What is wrong with `head`, which ends with its empty line; None when nothing is."""
        seen = self._seen
        parser = self._parser
        if parser is None or not seen.complete:
            parser = self._parser = self._kind(seen)
        seen.head = seen.complete = False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            seen.complete = False
        except httptools.HttpParserError as error:
            self._parser = None
            return str(error) or type(error).__name__
        if not seen.head:
            self._parser = None
            return "head is not where it seems to end"
        return None


def _fields_of(lines: list[bytes]) -> tuple[type_of_fields, dict[bytes, bytes], str | None]:
    """Fields, index, and what makes them ambiguous, from the lines of a well-formed head.

    Well-formed: no folding, no blank before a colon, no bare CR or LF.
    """
    fields = [
        (name, value.strip(b" \t")) for name, _, value in [line.partition(b":") for line in lines]
    ]
    index = {name.lower(): value for name, value in fields}
    return fields, index, _join_repeated(fields, index) if len(index) != len(fields) else None


def _join_repeated(fields: type_of_fields, index: dict[bytes, bytes]) -> str | None:
    """Let `index` have all members of repeated lists; which field may not be repeated but is."""
    for name in _ONLY_ONCE:
        if name in index and sum(field.lower() == name for field, _ in fields) > 1:
            return f"more than one {name.decode()} field"
    for name in _LISTS:
        if name in index:
            index[name] = b", ".join(value for field, value in fields if field.lower() == name)
    return None


def _length(value: bytes) -> int | None:
    if value.isdigit() and len(value) < 20:
        length = int(value)
        if length <= _LONGEST:
            return length
    return None


def parse_request(head: bytes, checker: HeadChecker) -> Request:
    """A request from its head; raises BadRequest, HeadTooLarge."""
    if not 65 <= head[0] <= 90:
        raise BadRequest("malformed request: it does not begin with a method")
    lines = head[:-4].split(b"\r\n")
    start = lines.pop(0).split(b" ", 2)
    if len(lines) > _MOST_FIELDS:
        raise HeadTooLarge("more request header fields than any client needs")
    fault = checker.check(head)
    if fault is not None:
        raise BadRequest(f"malformed request: {fault}")
    fields, index, ambiguous = _fields_of(lines)
    version = _VERSIONS.get(start[2]) if len(start) == 3 else None
    if version is None:
        raise BadRequest("malformed request: HTTP version is neither 1.0 nor 1.1")
    if ambiguous is not None:
        raise BadRequest(f"malformed request: {ambiguous}")
    if version == 11 and b"host" not in index:
        raise BadRequest("malformed request: Host field is missing")
    framing = 0
    encoding = index.get(b"transfer-encoding")
    length = index.get(b"content-length")
    if encoding is not None:
        if encoding.lower() != b"chunked" or version == 10 or length is not None:
            raise BadRequest("malformed request: Transfer-Encoding is not acceptable")
        framing = CHUNKED
    elif length is not None:
        number = _length(length)
        if number is None:
            raise BadRequest("malformed request: Content-Length is not a length")
        framing = number
    request = Request(start[0], start[1], version, fields, index, framing, version == 11)
    connection = index.get(b"connection")
    if connection is not None:
        tokens = [token.strip(b" \t") for token in connection.lower().split(b",")]
        if b"close" in tokens:
            request.keep_alive = False
        elif version == 10:
            request.keep_alive = b"keep-alive" in tokens
        if b"upgrade" in tokens and version == 11:
            request.upgrade = index.get(b"upgrade", b"")
    if b"expect" in index and version == 11 and framing:
        request.expects = index[b"expect"].lower() == b"100-continue"
    return request


def parse_answer(head: bytes, checker: HeadChecker, method: bytes) -> Answer:
    """An answer from its head, to a request with `method` (RFC 9112 6.3); raises BadGateway."""
    lines = head[:-4].split(b"\r\n")
    start = lines.pop(0).split(b" ", 2)
    if len(lines) > _MOST_FIELDS:
        raise BadGateway("malformed answer from upstream: too many fields")
    fault = checker.check(head)
    if fault is not None:
        raise BadGateway(f"malformed answer from upstream: {fault}")
    fields, index, ambiguous = _fields_of(lines)
    version = _VERSIONS.get(start[0])
    if version is None or len(start) < 2 or not (start[1].isdigit() and len(start[1]) == 3):
        raise BadGateway("malformed answer from upstream: status line")
    if ambiguous is not None:
        raise BadGateway(f"malformed answer from upstream: {ambiguous}")
    status = int(start[1])
    if status < 100:
        raise BadGateway("malformed answer from upstream: status")
    reason = start[2] if len(start) == 3 else b""
    if not reason.isalpha():
        reason = reason.translate(None, _CONTROLS)
    encoding = index.get(b"transfer-encoding")
    length = index.get(b"content-length")
    framing = UNTIL_CLOSE
    if encoding is not None:
        if encoding.lower() != b"chunked" or version == 10 or length is not None:
            raise BadGateway("malformed answer from upstream: Transfer-Encoding")
        framing = CHUNKED
    elif length is not None:
        number = _length(length)
        if number is None:
            raise BadGateway("malformed answer from upstream: Content-Length")
        framing = number
    if method == b"HEAD" or status < 200 or status in (204, 304):
        framing = 0
    keep_alive = version == 11
    connection = index.get(b"connection")
    if connection == b"keep-alive":
        keep_alive = True
    elif connection is not None:
        tokens = [token.strip(b" \t") for token in connection.lower().split(b",")]
        keep_alive = b"close" not in tokens and (version == 11 or b"keep-alive" in tokens)
    return Answer(
        status, reason, version, fields, index, framing, keep_alive and framing != UNTIL_CLOSE
    )
