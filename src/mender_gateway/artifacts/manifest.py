"""The manifest of a Mender artifact: a SHA-256 for each of its parts. Pure.

One line per part, digest, two blanks, name. Payload files are named `data/NNNN/<file>` and their
digest is that of the file itself, whatever the archive around it is packed with.
"""

import re

from mender_gateway.artifacts.tar import Malformed

_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]{1,2}(\S(?:.*\S)?)")
_MOST = 65_536


class Manifest:
    """What must be there, and what has been; `signed` parts and augmented ones alike."""

    def __init__(self) -> None:
        self._expected: dict[str, str] = {}
        self._seen: set[str] = set()

    def add(self, text: bytes) -> None:
        """Takes in a manifest file; raises Malformed."""
        try:
            lines = text.decode().splitlines()
        except UnicodeDecodeError:
            raise Malformed("manifest is not text") from None
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise Malformed("manifest has a malformed line")
            if match[2] in self._expected:
                raise Malformed(f"manifest names {match[2]!r} twice")
            self._expected[match[2]] = match[1].lower()
        if len(self._expected) > _MOST:
            raise Malformed("manifest names too many files")

    def names(self, name: str) -> bool:
        return name in self._expected

    def check(self, name: str, sha256: str) -> None:
        """A part has been read; raises Malformed when it is not what the manifest says."""
        expected = self._expected.get(name)
        if expected is None:
            raise Malformed(f"file {name!r} is not in the manifest")
        if name in self._seen:
            raise Malformed(f"file {name!r} occurs twice")
        if sha256 != expected:
            raise Malformed(f"file {name!r} has a wrong checksum: {sha256}, not {expected}")
        self._seen.add(name)

    def complete(self) -> None:
        """Raises Malformed when a part is missing."""
        missing = sorted(self._expected.keys() - self._seen)
        if missing:
            raise Malformed(f"file {missing[0]!r} is missing")
