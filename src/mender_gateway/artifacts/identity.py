"""What a storage link names: where to fetch it, which object it is, and when it was signed.

Every poll of every device brings a freshly signed link for the same object. `object_id` sees
through that: it hashes scheme, host, port, path and the query without the parameters that sign or
dress the answer. That list is closed and part of the hash by its version: two links with one
identity always mean the same bytes, and a parameter that nobody has thought of (a versionId) makes
another object rather than a wrong one.
"""

import hashlib
import re
import socket
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from mender_gateway import errors

LONGEST_URL = 16 * 1024
"""Characters; signed links with session tokens have up to about 2,000."""

_VERSION = b"mender-gateway object 1"

# Possessive: each part is decided once, so that hostile text costs one pass.
_URL = re.compile(
    r"(https?)://([A-Za-z0-9_][A-Za-z0-9._-]*+|\[[0-9A-Fa-f:.]++\])(?::([0-9]{1,5}))?(?=[/?]|\Z)",
    re.ASCII | re.IGNORECASE,
)

# fmt: off
_UNSIGNED_NAMES = frozenset({
    "AWSAccessKeyId", "Signature", "Expires", "Key-Pair-Id", "Policy", "x-id",
    "sv", "ss", "srt", "sp", "st", "se", "spr", "sig", "sr",
    "skoid", "sktid", "skt", "ske", "sks", "skv", "sip",
    "GoogleAccessId", "x-men-expire", "x-men-signature",
})
# fmt: on
# The first two in any case: they are the stores' own namespaces, and SDKs write both spellings.
_UNSIGNED_PREFIXES = ("x-amz-", "x-goog-")
_DRESSING_PREFIX = "response-content-"


class Origin(msgspec.Struct, frozen=True, gc=False):
    """A storage URL taken apart; `target` and `authority` are those of the link, byte for byte.

    `host` is for comparing and connecting: lower case, no trailing dot, no brackets. `authority`
    is the value for Host: signatures cover it as it was written.
    """

    scheme: str
    host: str
    port: int
    authority: str
    target: str


def parse_storage_url(url: str) -> Origin:
    """Take an absolute http or https URL apart.

    Strict, because what is checked here must be what is fetched: no userinfo, no fragment, ASCII
    without controls and spaces, a host of letters, digits, dots, hyphens and underscores or an
    IPv6 address. Raises errors.BadLink saying which of it.
    """
    match = _URL.match(url) if len(url) <= LONGEST_URL and _is_visible(url) else None
    if match is None:
        raise errors.BadLink(f"not a usable storage link: {_fault(url)}")
    scheme, name, digits = match.groups()
    target = url[match.end() :]
    scheme = scheme.lower()
    host = name.lower().removesuffix(".")
    if host[0] == "[":
        host = _ipv6(host[1:-1])
    elif ".." in name or len(host) > 253 or not host:
        raise errors.BadLink("not a usable storage link: the host name is malformed")
    if digits:
        port = int(digits)
        if not 0 < port < 65536:
            raise errors.BadLink("not a usable storage link: no such port")
        authority = f"{name}:{digits}"
    else:
        port = 443 if scheme == "https" else 80
        authority = name
    if not target:
        target = "/"
    elif target[0] == "?":
        target = "/" + target
    return Origin(scheme, host, port, authority, target)


def object_id(origin: Origin) -> str:
    """The identity of the object behind a link: 32 hexadecimal digits, safe as a file name.

    128 bits of SHA-256: nobody but the owner of a storage path can name an object, and two names
    for one identity cannot be found.
    """
    path, _, query = origin.target.partition("?")
    if query:
        kept = [part for part in query.split("&") if part and _counts(part.partition("=")[0])]
        if kept:
            path = f"{path}?{'&'.join(kept)}"
    text = f"{origin.scheme}\n{origin.host}\n{origin.port}\n{path}"
    return hashlib.sha256(b"%b\n%b" % (_VERSION, text.encode())).hexdigest()[:32]


def signed_at(origin: Origin) -> float | None:
    """When a link was signed, as Unix time; None if it does not say.

    Where a link says only when it ends, that stands in: links for one object live equally long,
    so the one that ends last was signed last, and only that order is asked for.
    """
    query = origin.target.partition("?")[2]
    stands_in: float | None = None
    for part in query.split("&"):
        name, _, text = part.partition("=")
        match name:
            case "X-Amz-Date" | "X-Goog-Date" | "st":
                if (moment := _moment(text)) is not None:
                    return moment
            case "Expires" | "se" | "x-men-expire":
                stands_in = _moment(text)
    return stands_in


def _is_visible(url: str) -> bool:
    """Whether it is visible ASCII without a fragment."""
    return url.isascii() and url.isprintable() and " " not in url and "#" not in url


@lru_cache(maxsize=256)
def _counts(name: str) -> bool:
    if name in _UNSIGNED_NAMES or name.startswith(_DRESSING_PREFIX):
        return False
    return not name[:7].lower().startswith(_UNSIGNED_PREFIXES)


def _moment(text: str) -> float | None:
    """Unix seconds, or ISO 8601 in the basic or the extended format, UTC unless it says else."""
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return float(text)
    try:
        moment = datetime.fromisoformat(text.replace("%3A", ":").replace("%3a", ":"))
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _ipv6(text: str) -> str:
    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text))
    except OSError:
        raise errors.BadLink("not a usable storage link: malformed IPv6 address") from None


def _fault(url: str) -> str:
    if len(url) > LONGEST_URL:
        return f"longer than {LONGEST_URL} characters"
    if not url.lower().startswith(("http://", "https://")):
        return "neither http nor https"
    if not url.isascii() or any(not "!" <= letter <= "~" for letter in url):
        return "it holds a space, a control character or a letter beyond ASCII"
    if "#" in url:
        return "it holds a fragment"
    if "@" in re.split(r"[/?]", url[8:], maxsplit=1)[0]:
        return "it holds a user name or password"
    return "the host name or port is malformed"
