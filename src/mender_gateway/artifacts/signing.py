"""Local artifact links: a path and query that any gateway with the same secret can serve.

A link is ``/mender-gateway/v1/<object id>?se=<expiry>&sr=<origin link>&sig=<HMAC>`` and carries all
that serving needs, so there is no table that could be lost or would have to be shared. The object's
identity stands in the path: access logs show it, and a gateway behind this one, which knows ``se``,
``sr`` and ``sig`` for parameters that sign (they are in the closed list of
`mender_gateway.artifacts.identity`), finds the same identity in every link for one object.

The HMAC covers every byte before ``&sig=`` and is compared as text, so no two links are equal but
for their spelling. The origin link is packed: digests and UUIDs as bytes, the rest deflated
against a dictionary of what presigned links say. `_WORDS` belongs to the format ``v1`` and can
only change together with it.
"""

import binascii
import hmac
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache

import msgspec

from mender_gateway import errors
from mender_gateway.artifacts.identity import LONGEST_URL, object_id, parse_storage_url

LINK_PREFIX = b"/mender-gateway/v1/"
"""Path of every local link; no path of a Mender server begins so."""

_REMEMBERED, _USUAL = 256, 4096
"""How many links are remembered to be good, and how long they may be in bytes."""

RESUMPTION = 24 * 3600.0
"""Seconds after expiry in which a device may still resume a download that it has begun."""

_LABEL = b"mender-gateway artifact link v1"

_LINK = re.compile(rb"/mender-gateway/v1/([0-9a-f]{32})\?se=([0-9]{1,12})&sr=([A-Za-z0-9_-]++)")
_SIGNATURE = re.compile(rb"[A-Za-z0-9_-]{22}")

_WORDS = (
    b"GoogleAccessId=&Expires=&Signature=&AWSAccessKeyId=&Key-Pair-Id=&Policy=&versionId="
    b"?sv=202&ss=b&srt=o&sp=r&st=202&se=202&spr=https&sr=b&skoid=&sktid=&skt=&ske=&sks=b&skv=&sig="
    b"&rscd=attachment%3B+filename%3D&rsct=application/vnd.mender-artifact%3A%2B"
    b".blob.core.windows.net/.r2.cloudflarestorage.com/.cloudfront.net/.digitaloceanspaces.com/"
    b"https://storage.googleapis.com/?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential="
    b".iam.gserviceaccount.com%2F202%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date="
    b"&X-Goog-Expires=&X-Goog-SignedHeaders=host&X-Goog-Signature="
    b"/artifacts/.mender?&X-Amz-Security-Token=IQoJb3JpZ2luX2Vj&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"
    b"eu-central-1us-west-2ap-southeast-1.s3-accelerate.amazonaws.com/minio.:9000/"
    b"http://127.0.0.1:9000/https://s3.eu-west-1.amazonaws.com/https://s3.amazonaws.com/"
    b"mender-artifact-storage/hosted-mender-artifacts/mender/"
    b"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=mender%2F202"
    b"%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=202&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    b"&response-content-disposition=attachment%3B%20filename%3D%22release-.mender%22"
    b"&response-content-type=application%2Fvnd.mender-artifact&x-id=GetObject&X-Amz-Signature="
)
_WINDOW = -12  # raw deflate; 4 KiB hold the words and a usual link, and cost little to set up
_MEMORY = 5

_DEFLATE = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, _MEMORY, zdict=_WORDS)
"""Only ever copied: taking the words in costs more than a link."""

_DIGEST, _UUID = b"\x01", b"\x02"  # stand for packed bytes; no URL holds control bytes
_PACKABLE = re.compile(
    rb"([=/])(?:([0-9a-f]{64})|"
    rb"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12}))"
)
_PACKED = re.compile(rb"[\x01\x02]")


class LocalLink(msgspec.Struct, frozen=True, gc=False):
    """What a valid local link says; `expires` is Unix time."""

    url: str
    object_id: str
    expires: int


class Signer:
    """Signs with one secret and reads links of that and the previous one. Immutable."""

    __slots__ = ("_keys", "_verified")

    def __init__(self, secret: bytes, previous: bytes | None = None) -> None:
        secrets = (secret,) if previous is None else (secret, previous)
        # A key of its own per purpose: what else the secret may sign is no link.
        self._keys = tuple(hmac.digest(each, _LABEL, "sha256") for each in secrets)
        # Small devices fetch an image by hundreds of ranges of one link.
        self._verified = lru_cache(maxsize=_REMEMBERED)(self._verify)

    def sign(self, url: str, expires: int, identity: str | None = None) -> str:
        """Path and query of the local link to the storage link `url` that ends at `expires`.

        `expires` is Unix time; `identity` is the object_id of `url` where that is known already.
        Without it, raises errors.BadLink when `url` is no usable storage link.
        """
        name = (identity or object_id(parse_storage_url(url))).encode()
        link = b"%b%b?se=%d&sr=%b" % (LINK_PREFIX, name, expires, _pack(url.encode()))
        return (link + b"&sig=" + _signature(self._keys[0], link)).decode()

    def read(
        self, target: bytes, now: float, *, range_start: int | None, single_range: bool
    ) -> LocalLink:
        """Read the `target` of a request back.

        `now` is Unix time; `range_start` the first byte asked for, or None; `single_range` says
        whether the request asks for exactly one range. For `RESUMPTION` after its end a link
        serves a single range that starts above 0: a device that goes on where it was.
        Raises errors.BadLink for a target that is no local link, errors.Forbidden for one that
        was not signed here or has ended.
        """
        link = self._verified(target) if len(target) <= _USUAL else self._verify(target)
        if now > link.expires:
            resumes = single_range and range_start is not None and range_start > 0
            if not resumes or now > link.expires + RESUMPTION:
                raise errors.Forbidden("the artifact link has expired")
        return link

    def _verify(self, target: bytes) -> LocalLink:
        link, _, signature = target.rpartition(b"&sig=")
        match = _LINK.fullmatch(link)
        if match is None or _SIGNATURE.fullmatch(signature) is None:
            raise errors.BadLink
        for key in self._keys:
            if hmac.compare_digest(_signature(key, link), signature):
                break
        else:
            raise errors.Forbidden("the signature of the artifact link is wrong")
        return LocalLink(_unpack(match[3]), match[1].decode(), int(match[2]))


def _signature(key: bytes, link: bytes) -> bytes:
    """HMAC-SHA256 cut to 128 bits, as 22 characters."""
    return urlsafe_b64encode(hmac.digest(key, link, "sha256")[:16])[:22]


def _pack(url: bytes) -> bytes:
    packed: list[bytes] = []

    def take(match: re.Match[bytes]) -> bytes:
        before, digest, *uuid = match.groups()
        packed.append(binascii.unhexlify(digest or b"".join(uuid)))
        return before + (_DIGEST if digest else _UUID)

    deflate = _DEFLATE.copy()
    parts = [deflate.compress(_PACKABLE.sub(take, url)), deflate.flush(), *packed]
    return urlsafe_b64encode(b"".join(parts)).rstrip(b"=")


def _unpack(text: bytes) -> str:
    """Undo `_pack`; inflates to at most `LONGEST_URL` bytes. Raises errors.BadLink."""
    inflate = zlib.decompressobj(_WINDOW, zdict=_WORDS)
    try:
        url = inflate.decompress(urlsafe_b64decode(text + b"=="), LONGEST_URL)
        if not inflate.eof:
            raise errors.BadLink
        packed = inflate.unused_data
        at = 0

        def give(match: re.Match[bytes]) -> bytes:
            nonlocal at
            size = 32 if match[0] == _DIGEST else 16
            digits = binascii.hexlify(packed[at : at + size])
            at += size
            if size == 32:
                return digits
            return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

        whole = _PACKED.sub(give, url).decode("ascii")
    except (ValueError, zlib.error):
        raise errors.BadLink from None
    if at != len(packed):
        raise errors.BadLink
    return whole
