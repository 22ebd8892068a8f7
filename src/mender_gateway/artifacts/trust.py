"""Nothing unsigned leaves whole where keys are configured: not from the cache, not past it.

What a fill stores under the keys says so in its description. An object stored before they were
configured had its checksums verified then, so that only its signature, at its beginning, is left to
be checked, once per process. What streams past the cache is verified as it passes and its last byte
withheld until then; an answer that begins further back costs reading all that lies before it.
Storage may send something else each time, so that nothing is remembered of what it sent.
"""

import asyncio
import os
from collections.abc import Callable

from mender_gateway.artifacts.description import decode
from mender_gateway.artifacts.origin import Download, Refused
from mender_gateway.artifacts.verify import ContentVerifier, Verification
from mender_gateway.cache.errors import VerificationFailed

_PIECE = 64 * 1024
_REMEMBERED = 4096


class Trust:
    """`description` says what was kept with a stored object; `rejected` reports a refusal."""

    def __init__(
        self,
        verification: Verification,
        description: Callable[[str], str | None],
        rejected: Callable[[str, str], None],
    ) -> None:
        self._verification = verification
        self._description = description
        self._rejected = rejected
        self._stored: dict[str, None] = {}

    @property
    def needed(self) -> bool:
        return self._verification.strict

    def refused(self, object_id: str) -> None:
        """Raises Refused while the object is not to be fetched, having been rejected twice."""
        reason = self._verification.rejections.standing(object_id)
        if reason is not None:
            raise Refused(f"the artifact is not fetched again for a while: {reason}")

    async def of_stored(self, object_id: str, fd: int) -> bool:
        """Whether a finished object, open as `fd`, may be served; looks at the disk only once."""
        if object_id in self._stored:
            return True
        loop = asyncio.get_running_loop()
        try:
            good = await loop.run_in_executor(None, self._examine, object_id, fd)
        except OSError:
            return False
        if good:
            self._stored[object_id] = None
            while len(self._stored) > _REMEMBERED:
                del self._stored[next(iter(self._stored))]
        return good

    def _examine(self, object_id: str, fd: int) -> bool:
        known = decode(self._description(object_id))
        if known is None or not known.verified:
            return False
        if known.key is not None and self._verification.trusts(known.key):
            return True
        return self._verification.signed(lambda offset: os.pread(fd, _PIECE, offset))

    def guard(self, object_id: str, source: Download) -> "Guarded":
        """The download, from 0, verified as it passes; takes it over."""
        verifier = self._verification.of(object_id)(source.attributes)
        return Guarded(source, verifier, lambda text: self._rejected(object_id, text))


class Guarded:
    """A download whose last byte comes once everything was found to be right."""

    def __init__(
        self,
        source: Download,
        verifier: ContentVerifier,
        failed: Callable[[str], None],
    ) -> None:
        self.attributes = source.attributes
        self.offset = source.offset
        self._source = source
        self._verifier = verifier
        self._failed = failed
        self._left = source.attributes.length
        self._held = b""

    async def read(self) -> bytes:
        """The next bytes, empty at the end; raises Refused when they are refused."""
        loop = asyncio.get_running_loop()
        try:
            while self._left:
                data = await self._source.read()
                if not data:
                    raise ConnectionAbortedError("storage answer broke off")
                await loop.run_in_executor(None, self._verifier.feed, data)
                self._left -= len(data)
                if not self._left:
                    self._held, data = data[-1:], data[:-1]
                if data:
                    return data
            held, self._held = self._held, b""
            if held:
                await loop.run_in_executor(None, self._verifier.finish)
            return held
        except VerificationFailed as error:
            self._failed(str(error))
            raise Refused(f"the artifact is refused: {error}") from error

    async def aclose(self) -> None:
        await self._source.aclose()
