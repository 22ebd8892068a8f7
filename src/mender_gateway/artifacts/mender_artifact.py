"""A Mender artifact read as it streams: every checksum of its manifest is verified on the way.

The outer tar has version, manifest, manifest.sig, manifest-augment, header.tar, header-augment.tar
and data/NNNN.tar, in this order, the tars packed or not. Each part is hashed and, where it is an
archive, unpacked and read at once; only the small text files are kept. What is no artifact of
version 2 or 3 is `Unverifiable`; what claims to be one and is not whole is `Malformed`. Versions 2
and 3 are built alike as far as checksums go.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from mender_gateway.artifacts.description import Description, Header
from mender_gateway.artifacts.manifest import Manifest
from mender_gateway.artifacts.signature import signer_of
from mender_gateway.artifacts.tar import Entry, Malformed, Sink, TarReader
from mender_gateway.artifacts.unpack import Unverifiable, unpacker
from mender_gateway.config.verify_keys import PublicKey

_TEXTS = {"version": 64 * 1024, "manifest": 8 << 20, "manifest.sig": 64 * 1024}
_TEXTS["manifest-augment"] = _TEXTS["manifest"]
_HEADER = re.compile(r"header(-augment)?\.tar(|\.gz|\.xz|\.zst)")
_DATA = re.compile(r"data/([0-9]{4})\.tar(|\.gz|\.xz|\.zst)")
_VERSIONS = (2, 3)


class MenderArtifact:
    """Push parser. With `keys`, the manifest must be signed with one of them.

    `feed` raises Malformed, and Unverifiable where nothing can be said; after either it is over.
    """

    def __init__(self, keys: tuple[PublicKey, ...] = ()) -> None:
        self._keys = keys
        self._outer = TarReader(self._begin)
        self._manifest = Manifest()
        self._header = Header()
        self._last = ""
        """The name of the entry before."""
        self._seen: set[str] = set()
        self._version: int | None = None
        self._damaged = False
        self._version_sum = ""
        self._manifest_text = b""
        self._signed = False
        self._key: str | None = None

    def feed(self, data: memoryview, /) -> None:
        self._outer.feed(data)

    @property
    def trusted(self) -> bool:
        """The signature was verified with one of the keys; always, when there are none."""
        return not self._keys or self._key is not None

    def finish(self) -> Description:
        """After the last byte; raises Malformed when anything is missing."""
        self._outer.end()
        if not self._header_seen:
            raise Malformed("header is missing")
        self._manifest.complete()
        return self.describe(verified=True)

    def describe(self, *, verified: bool) -> Description:
        """What is known by now."""
        return self._header.describe(
            version=self._version or 0, verified=verified, signed=self._signed, key=self._key
        )

    @property
    def _header_seen(self) -> bool:
        return "header" in self._seen

    # -- the outer archive -------------------------------------------------------------------

    def _begin(self, entry: Entry) -> Sink | None:
        name, last = entry.name, self._last
        self._last = name
        if not last and name != "version":
            raise Unverifiable("it is a tar, and no Mender artifact")
        if last == "version" and name != "manifest":
            self._known_version()
            raise Malformed("manifest is missing")
        if last == "manifest" and name != "manifest.sig" and self._keys:
            raise Malformed("manifest is not signed")
        if not entry.regular:
            raise Malformed(f"entry {name!r} is no file")
        if name in _TEXTS:
            return self._text(entry)
        if match := _HEADER.fullmatch(name):
            return self._archive(name, f"header{match[1] or ''}", match[2])
        if match := _DATA.fullmatch(name):
            return self._payload(match[1], match[2])
        if self._keys:
            raise Malformed(f"entry {name!r} is not covered by the signature")
        return None  # devices decide; the manifest covers what they need

    def _once(self, part: str) -> None:
        if part in self._seen:
            raise Malformed(f"{part} occurs twice")
        self._seen.add(part)

    def _text(self, entry: Entry) -> Sink:
        name = entry.name
        self._once(name)
        if entry.size > _TEXTS[name]:
            raise Malformed(f"{name} is too large")
        if name in ("manifest.sig", "manifest-augment") and "manifest" not in self._seen:
            raise Malformed(f"{name} stands before the manifest")
        take = {
            "version": self._take_version,
            "manifest": self._take_manifest,
            "manifest.sig": self._take_signature,
            "manifest-augment": self._take_augment,
        }[name]
        return _Text(take)

    def _take_version(self, text: bytes) -> None:
        self._version_sum = hashlib.sha256(text).hexdigest()
        try:
            value: Any = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self._damaged = True
        elif value.get("format") == "mender":
            version = value.get("version")
            self._version = version if version in _VERSIONS else None

    def _known_version(self) -> None:
        if self._damaged:
            raise Malformed("version cannot be read")
        if self._version is None:
            raise Unverifiable("its format is unknown")

    def _take_manifest(self, text: bytes) -> None:
        """The version's checksum is judged before its number is: a damaged one is not unknown."""
        self._manifest_text = text
        try:
            self._manifest.add(text)
        except Malformed:
            self._known_version()
            raise
        if self._version is not None or self._manifest.names("version"):
            self._manifest.check("version", self._version_sum)
        self._known_version()

    def _take_signature(self, text: bytes) -> None:
        if self._last != "manifest.sig":
            raise Malformed("manifest.sig is not where it belongs")
        self._signed = True
        if self._keys:
            self._key = signer_of(self._keys, self._manifest_text, text)
            if self._key is None:
                raise Malformed("signature was made with none of the keys")

    def _take_augment(self, text: bytes) -> None:
        if self._keys:
            raise Malformed("augmented parts are not covered by the signature")
        self._manifest.add(text)

    # -- archives inside ---------------------------------------------------------------------

    def _archive(self, name: str, part: str, suffix: str) -> Sink:
        self._once(part)
        if "manifest" not in self._seen:
            raise Malformed(f"{part} stands before the manifest")

        def begin(entry: Entry) -> Sink | None:
            if part != "header" or not self._header.wants(entry.name, entry.size):
                return None
            return _Text(lambda content: self._header.take(entry.name, content))

        return _Archive(begin, suffix, lambda digest: self._manifest.check(name, digest))

    def _payload(self, number: str, suffix: str) -> Sink:
        self._once(f"data/{number}")
        if not self._header_seen:
            raise Malformed("payload stands before the header")

        def begin(entry: Entry) -> Sink:
            name = f"data/{number}/{entry.name}"
            if not (entry.regular and self._manifest.names(name)):
                raise Malformed(f"file {name!r} is not in the manifest")
            return _Hashed(lambda digest: self._manifest.check(name, digest))

        return _Archive(begin, suffix, None)


class _Text:
    """Gathers a small file, whose size was bounded before."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._data = bytearray()

    def feed(self, data: memoryview, /) -> None:
        self._data += data

    def end(self) -> None:
        self._take(bytes(self._data))


class _Hashed:
    """Hashes a file."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check
        self._hash = hashlib.sha256()

    def feed(self, data: memoryview, /) -> None:
        self._hash.update(data)

    def end(self) -> None:
        self._check(self._hash.hexdigest())


class _Archive:
    """Unpacks and reads an archive; with `check`, hashes it as it is stored, too."""

    def __init__(
        self,
        begin: Callable[[Entry], Sink | None],
        suffix: str,
        check: Callable[[str], None] | None,
    ) -> None:
        self._tar = TarReader(begin)
        self._unpacker = unpacker(suffix, self._tar.feed)
        self._check = check
        self._hash = hashlib.sha256()

    def feed(self, data: memoryview, /) -> None:
        if self._check is not None:
            self._hash.update(data)
        self._unpacker.feed(data)

    def end(self) -> None:
        if self._check is not None:
            self._check(self._hash.hexdigest())
        self._unpacker.end()
        self._tar.end()
