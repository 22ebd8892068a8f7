"""A file's bytes, held in memory under a name that OpenSSL can open again and again.

Python's ssl takes certificate and key by file name alone. What was read once must be what every
context of one trust uses, also one that is made an hour later, when the files on disk may have been
replaced by others, good or bad.
"""

import os


class Held:
    """`path` can be opened as long as this object lives; nobody else can name the memory."""

    def __init__(self, name: str, data: bytes) -> None:
        """Raises OSError."""
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.close(self._fd)
            raise

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)
