"""What is known about content is checked while it streams into the cache, or past it.

A `ContentVerifier` runs in a thread, in order, over all bytes of one object. Mender artifacts are
verified to the last checksum of their manifest and, when keys are configured, by their signature;
anything else is kept on its length and the cache's own checksum, unless keys are configured: then
it is rejected. An ETag that S3 made of the content's MD5 must agree. A rejection ends the fill
before its last byte is handed out. Who is rejected again and again is not fetched for a while.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mender_gateway.artifacts.description import encode
from mender_gateway.artifacts.mender_artifact import MenderArtifact
from mender_gateway.artifacts.tar import BLOCK, Malformed, check_header, looks_like_tar
from mender_gateway.artifacts.unpack import Unverifiable
from mender_gateway.cache.errors import VerificationFailed
from mender_gateway.cache.origin import Attributes

if TYPE_CHECKING:
    from mender_gateway.config.verify_keys import PublicKey

_DIGEST = re.compile(r'"([0-9a-fA-F]{32})"')
_PIECE = 64 * 1024
"""Bytes looked at in one go, so that hashes find them in the processor's cache."""
_LONGEST_HEAD = 16 << 20
"""Bytes within which the signature comes."""
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 3600.0
_REMEMBERED = 1024


def digest_of_etag(etag: str | None) -> str | None:
    """The MD5 that an ETag may be, in lower case: 32 digits in quotes (S3, one part)."""
    match = _DIGEST.fullmatch(etag) if etag is not None else None
    return match[1].lower() if match else None


class Rejections:
    """Objects whose content was rejected, and until when storage is not asked for them again.

    One rejection may be the line's fault and delays nothing; from the second on the pause doubles
    from one minute to an hour. May be called from any thread.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: dict[str, tuple[int, float, str]] = {}

    def rejected(self, object_id: str, text: str) -> None:
        times = self._known.pop(object_id, (0, 0.0, ""))[0] + 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(times - 2, 16)) if times > 1 else 0.0
        self._known[object_id] = times, self._now() + pause, text
        while len(self._known) > _REMEMBERED:
            self._known.pop(next(iter(self._known)), None)

    def accepted(self, object_id: str) -> None:
        self._known.pop(object_id, None)

    def standing(self, object_id: str) -> str | None:
        """Why the object is not to be fetched now; None when it may be."""
        if not self._known:
            return None
        times, until, text = self._known.get(object_id, (0, 0.0, ""))
        return text if times and self._now() < until else None


class Verification:
    """Makes verifiers; one per gateway. `plain_md5` says whether S3 made this ETag by MD5."""

    def __init__(
        self, keys: Sequence["PublicKey"] = (), plain_md5: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._keys = tuple(keys)
        self._identities = frozenset(key.identity for key in keys)
        self._plain_md5 = plain_md5
        self.rejections = Rejections()

    @property
    def strict(self) -> bool:
        """Keys are configured: nothing leaves whole that is not signed with one of them."""
        return bool(self._keys)

    def trusts(self, key: str | None) -> bool:
        """Whether content whose signature was verified with `key` still is to be trusted."""
        return not self._keys or key in self._identities

    def signed(self, read: Callable[[int], bytes]) -> bool:
        """Whether an artifact is signed with one of the keys; its checksums are not looked at.

        `read` gives some bytes at an offset, none at the end. Reads as far as the signature.
        """
        artifact, at = MenderArtifact(self._keys), 0
        try:
            while not artifact.trusted and at < _LONGEST_HEAD and (data := read(at)):
                artifact.feed(memoryview(data))
                at += len(data)
        except (Malformed, Unverifiable):
            pass  # what comes behind the signature does not matter here
        return artifact.trusted

    def of(self, object_id: str) -> "Callable[[Attributes], ContentVerifier]":
        """The `VerifierFactory` for an object."""

        def make(attributes: Attributes, /) -> ContentVerifier:
            return ContentVerifier(
                attributes, self._keys, self._plain_md5, object_id, self.rejections
            )

        return make


class ContentVerifier:
    """Checks the bytes of one object; see `cache.origin.Verifier`."""

    def __init__(
        self,
        attributes: Attributes,
        keys: tuple["PublicKey", ...] = (),
        plain_md5: Callable[[str], bool] = lambda _: False,
        object_id: str = "",
        rejections: Rejections | None = None,
    ) -> None:
        self._etag = attributes.etag
        self._expected = digest_of_etag(attributes.etag)
        self._md5 = _md5() if self._expected is not None else None
        self._plain_md5 = plain_md5
        self._keys = keys
        self._object_id = object_id
        self._rejections = rejections
        self._head = bytearray()
        """Gathered until it is clear what the content is."""
        self._artifact: MenderArtifact | None = None
        self._decided = False
        self._reason = ""
        """Why the content cannot be verified."""

    def feed(self, data: bytes | memoryview, /) -> None:
        """The next bytes; raises VerificationFailed."""
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            if self._md5 is not None:
                self._md5.update(piece)
            try:
                self._look(piece)
            except Malformed as error:
                raise self._rejection(f"the artifact is not right: {error}") from error

    def finish(self) -> str | None:
        """After the last byte; raises VerificationFailed, or returns the description as JSON."""
        if not self._decided:
            self._give_up("it is no Mender artifact")
        if self._md5 is not None and self._expected is not None:
            found = self._md5.hexdigest()
            if found != self._expected and self._plain_md5(self._etag or ""):
                raise self._rejection(f"MD5 is {found}, storage's ETag says {self._expected}")
        text = None
        if self._artifact is not None:
            try:
                known = self._artifact.describe(verified=False)
                text = encode(known if self._reason else self._artifact.finish())
            except Malformed as error:
                raise self._rejection(f"the artifact is not right: {error}") from error
        if self._rejections is not None:
            self._rejections.accepted(self._object_id)
        return text

    def _look(self, piece: memoryview) -> None:
        if self._decided:
            self._read(piece)
            return
        self._head += piece
        if len(self._head) < BLOCK:
            return
        self._decided = True
        head, self._head = bytes(self._head), bytearray()
        if is_artifact(head[:BLOCK]):
            self._artifact = MenderArtifact(self._keys)
            self._read(memoryview(head))
        else:
            self._give_up("it is no Mender artifact")

    def _read(self, piece: memoryview) -> None:
        if self._artifact is None or self._reason:
            return
        try:
            self._artifact.feed(piece)
        except Unverifiable as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        """The content is kept unverified, unless it must be signed."""
        self._decided = True
        self._reason = reason
        if self._keys:
            raise self._rejection(f"the artifact's signature cannot be verified: {reason}")

    def _rejection(self, text: str) -> VerificationFailed:
        if self._rejections is not None:
            self._rejections.rejected(self._object_id, text)
        return VerificationFailed(text)


def is_artifact(block: bytes) -> bool:
    """Whether content whose first block this is claims to be a Mender artifact.

    Raises Malformed for a damaged tar: it might have been one.
    """
    named = block.startswith(b"version\0")
    if not (named or looks_like_tar(block)):
        return False
    check_header(block)
    return named


def _md5() -> Any:
    """None where the system's rules forbid MD5 even for this."""
    try:
        return hashlib.md5(usedforsecurity=False)
    except ValueError:
        return None
