"""The seam towards the origin: what the cache needs to know of an object, and how it is read.

The cache speaks no HTTP. Whoever does hands in an `Origin`; the cache opens it where bytes are
missing and judges by the attributes whether it still is the same object. `Verifier` is the seam for
checks of the content; it runs in a writer thread.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the origin said of the whole object; kept and served back."""

    length: int
    content_type: str | None = None
    etag: str | None = None
    """Verbatim, with quotes and a W/ prefix where there is one."""
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """The value for If-Range (RFC 9110 13.1.5): a strong ETag, else the date, else None."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    @property
    def fingerprint(self) -> bytes | None:
        """Eight bytes that name this version of the object; None when it has no validator."""
        if self.validator is None:
            return None
        text = f"{self.length}\n{self.etag}\n{self.last_modified}"
        return hashlib.sha256(text.encode()).digest()[:8]


def same_object(old: Attributes, new: Attributes, *, range_honoured: bool) -> bool:
    """Whether bytes of `new` may follow bytes of `old`.

    An origin that honoured If-Range vouches for the object itself, and may leave out a validator in
    that answer (RFC 9110 15.3.7); what it does say must still agree.
    """
    if old.length != new.length:
        return False
    if old.etag is not None and new.etag is not None:
        return old.etag == new.etag and old.validator is not None
    if old.last_modified is not None and new.last_modified is not None:
        return old.last_modified == new.last_modified
    return range_honoured and old.validator is not None


class Source(Protocol):
    """One open download."""

    @property
    def attributes(self) -> Attributes: ...

    @property
    def offset(self) -> int:
        """Where the first byte of this download stands in the object."""
        ...

    async def read(self) -> bytes | memoryview:
        """The next bytes, valid until the next call; empty at the clean end; raises when broken."""
        ...

    async def aclose(self) -> None: ...


class Origin(Protocol):
    """Where an object can be had."""

    async def open(self, offset: int, validator: str | None) -> Source:
        """Starts a download at `offset`, or at 0 when the object changed or ranges are ignored.

        `validator` is the value for If-Range, None at offset 0 of a first download. Raises
        OriginRefused when asking again is of no use, anything else when it may be.
        """
        ...


class Verifier(Protocol):
    """Checks content while it streams; called in a thread, in order, without gaps."""

    def feed(self, data: bytes | memoryview, /) -> None:
        """The next bytes of the object; raises VerificationFailed. Must not keep `data`."""
        ...

    def finish(self) -> str | None:
        """After the last byte: raises VerificationFailed, or returns a description to be kept."""
        ...


class VerifierFactory(Protocol):
    """Makes the verifier of one fill."""

    def __call__(self, attributes: Attributes, /) -> Verifier | None: ...
