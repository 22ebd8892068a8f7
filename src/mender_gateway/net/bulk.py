"""Sender threads: file ranges leave by `os.sendfile` (plain) or large writes (TLS).

OpenSSL, the file system and the kernel release the interpreter lock, so a few threads keep the
event loop free for small requests and use the other processors. A thread never waits for a slow
peer: when a write would block, the job goes back to the loop, which watches the descriptor, and
comes again. After a bounded amount it queues behind the others, so that nobody starves.

TLS is read with `os.preadv` into a buffer per thread, never mapped: a truncated file or a failing
disk would end the process by SIGBUS. A TLS write that would block must be repeated with the same
bytes (SSL_write, notes): the same range is read again, the file's bytes do not change.
"""

import asyncio
import os
import queue
import ssl
import threading
from collections.abc import Callable

from mender_gateway.net.stream import Stream

_TLS_WRITE = 128 * 1024
_SENDFILE = 1024 * 1024
_TURN = 4 * 1024 * 1024
"""Bytes after which a job lets others have the thread."""


class FileTruncated(OSError):
    """The file ended before the range did."""


class _Job:
    __slots__ = ("done", "end", "fd", "position", "repeat", "stream")

    def __init__(
        self, stream: Stream, fd: int, start: int, end: int, done: asyncio.Future[bool]
    ) -> None:
        self.stream = stream
        self.fd = fd
        self.position = start
        self.end = end
        self.repeat = 0
        """Length of a TLS write that would block and must be repeated with the same bytes."""
        self.done = done


class Bulk:
    """Owns the sender threads of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"sender-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def send(
        self,
        stream: Stream,
        fd: int,
        start: int,
        end: int,
        timeout: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Send bytes `start` to `end` of the file `fd`, which the caller keeps open until then.

        `timeout` seconds bound each wait in which the peer takes no byte (TimeoutError);
        `progress` is told how many bytes went out at each step. Raises FileTruncated, and OSError
        for the peer's, the network's or the disk's faults. When cancelled, it first waits for the
        thread to let go of the descriptors: the stream is cut, so that is soon.
        """
        job = _Job(stream, fd, start, end, self._loop.create_future())
        while job.position < end:
            before = job.position
            stream.detach()
            job.done = self._loop.create_future()
            self._jobs.put(job)
            try:
                blocked = await asyncio.shield(job.done)
            except asyncio.CancelledError:
                stream.cut()
                await asyncio.wait([job.done])
                job.done.exception()
                raise
            if progress is not None and job.position > before:
                progress(job.position - before)
            if blocked:
                await stream.wait_writable(timeout)

    def close(self) -> None:
        """End the threads after the jobs they have; call when nothing is being sent any more."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _run(self) -> None:
        buffer = memoryview(bytearray(_TLS_WRITE))
        while (job := self._jobs.get()) is not None:
            try:
                if job.stream.tls:
                    blocked = self._send_tls(job, buffer)
                else:
                    blocked = self._send_plain(job)
            except BaseException as error:
                self._finish(job.done, error, False)
            else:
                self._finish(job.done, None, blocked)
            del job

    def _finish(
        self, done: asyncio.Future[bool], error: BaseException | None, blocked: bool
    ) -> None:
        def finish() -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(blocked)

        try:
            self._loop.call_soon_threadsafe(finish)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    @staticmethod
    def _send_plain(job: _Job) -> bool:
        limit = min(job.end, job.position + _TURN)
        while job.position < limit:
            try:
                sent = os.sendfile(
                    job.stream.fd, job.fd, job.position, min(_SENDFILE, job.end - job.position)
                )
            except (BlockingIOError, InterruptedError):
                return True
            if sent == 0:
                raise FileTruncated(f"file ends at {job.position} of {job.end}")
            job.position += sent
        return False

    @staticmethod
    def _send_tls(job: _Job, buffer: memoryview) -> bool:
        limit = min(job.end, job.position + _TURN)
        sock = job.stream.sock
        while job.position < limit:
            size = job.repeat or min(_TLS_WRITE, job.end - job.position)
            got = os.preadv(job.fd, [buffer[:size]], job.position)
            if got < size and (got == 0 or job.repeat):
                raise FileTruncated(f"file ends at {job.position + got} of {job.end}")
            try:
                sent = sock.send(buffer[:got])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                job.repeat = got
                return True
            job.repeat = 0
            job.position += sent
        return False


def read_now(fd: int, start: int, size: int) -> bytes | None:
    """Bytes of a file without waiting for a disk; None where that is not possible.

    They must be in the page cache, and the file system must know the flag (tmpfs does not).
    """
    buffer = bytearray(size)
    try:
        got = os.preadv(fd, [buffer], start, os.RWF_NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if got == size else None
