"""Sender threads: file ranges leave by `os.sendfile` (plain) or large writes (TLS).

OpenSSL, the file system and the kernel release the interpreter lock, so a few threads keep the
event loop free for small requests and use the other processors. All threads wait on one epoll set,
which is the queue as well: a socket that takes bytes is handed to one thread, once (EPOLLONESHOT),
and comes back when the thread has armed it again. So no thread waits for a slow peer, none for
another's disk, and the event loop hears of a range only when it is out. After a bounded amount a
socket goes to the end of the set, so that nobody starves.

TLS is read with `os.preadv` into a buffer per thread, never mapped: a truncated file or a failing
disk would end the process by SIGBUS. A TLS write that would block must be repeated with the same
bytes (SSL_write, notes): the same range is read again, the file's bytes do not change.
"""

import asyncio
import os
import select
import ssl
import threading
import time
from collections.abc import Callable

from mender_gateway.net.stream import Stream
from mender_gateway.net.tls import forget

_TLS_WRITE = 128 * 1024
_TURN = 4 * 1024 * 1024
"""Bytes after which a job lets others have the thread."""
_LOOK = 0.25
"""Seconds between two looks at whether the peers take bytes."""


_LAST_WAIT = 5.0
"""Seconds that all threads together have to end in."""


class FileTruncated(OSError):
    """The file ended before the range did."""


class _Job:
    __slots__ = (
        "done",
        "end",
        "fd",
        "held",
        "late",
        "position",
        "queued",
        "repeat",
        "since",
        "stream",
    )

    def __init__(
        self, stream: Stream, fd: int, start: int, end: int, done: asyncio.Future[None]
    ) -> None:
        self.stream = stream
        self.fd = fd
        self.position = start
        self.end = end
        self.repeat = 0
        """Length of a TLS write that would block and must be repeated with the same bytes."""
        self.done = done
        self.held = False
        """A thread has it: then it may be the disk that takes its time, not the peer."""
        self.since = 0.0
        """When the peer was last seen to take bytes; and what was out and on its way then."""
        self.queued = (start, 0)
        self.late = False


class Bulk:
    """Owns the sender threads of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop = loop
        self._ready = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ready.register(self._bell, select.EPOLLIN)
        self._jobs: dict[int, _Job] = {}
        """By the socket's descriptor; whoever is handed the descriptor owns the job."""
        self._timeouts: dict[_Job, float] = {}
        self._looking = False
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
        `progress` is told how many bytes went out, however it ends. Raises FileTruncated, and
        OSError for the peer's, the network's or the disk's faults. When cancelled, it first waits
        for the thread to let go of the descriptors: the stream is cut, so that is soon.
        """
        if start >= end:
            return
        if stream.closed:
            raise ConnectionResetError("connection is closed")
        job = _Job(stream, fd, start, end, self._loop.create_future())
        job.since = self._loop.time()
        stream.detach()
        self._jobs[stream.fd] = job
        try:
            self._ready.register(stream.fd, select.EPOLLOUT | select.EPOLLONESHOT)
        except OSError:
            del self._jobs[stream.fd]
            raise
        self._timeouts[job] = timeout
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK, self._look)
        try:
            await asyncio.shield(job.done)
        except asyncio.CancelledError:
            stream.cut()
            await asyncio.wait([job.done])
            job.done.exception()
            raise
        except OSError as error:
            if job.late:
                raise TimeoutError from error
            raise
        finally:
            del self._timeouts[job]
            if progress is not None and job.position > start:
                progress(job.position - start)

    def close(self) -> None:
        """End the threads; call when nothing is being sent any more.

        A thread at a disk that does not answer is left to the end of the process after a while.
        """
        os.eventfd_write(self._bell, 1)
        until = time.monotonic() + _LAST_WAIT
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return
        self._ready.close()
        os.close(self._bell)

    def _look(self) -> None:
        """Cut the streams whose peers have taken no byte for too long.

        A peer that has taken all there was waits for us: the threads may all be at slow disks.
        """
        now = self._loop.time()
        for job, timeout in self._timeouts.items():
            if job.stream.closed:
                continue
            queued = (job.position, job.stream.queued())
            if queued != job.queued or job.held or not queued[1]:
                job.queued = queued
                job.since = now
            elif now - job.since > timeout:
                job.late = True
                job.stream.cut()
        self._looking = bool(self._timeouts)
        if self._looking:
            self._loop.call_later(_LOOK, self._look)

    # --- in the threads ------------------------------------------------------------------------

    def _run(self) -> None:
        buffer = memoryview(bytearray(_TLS_WRITE))
        while True:
            for fd, _ in self._ready.poll(maxevents=1):
                if fd == self._bell:
                    return
                job = self._jobs[fd]
                job.held = True
                try:
                    if job.stream.tls:
                        wanted = self._send_tls(job, buffer)
                    else:
                        wanted = self._send_plain(job)
                except BaseException as error:
                    self._finish(fd, job, error)
                else:
                    if job.position < job.end:
                        job.held = False  # from the next line on another thread may have it
                        self._ready.modify(fd, wanted | select.EPOLLONESHOT)
                    else:
                        self._finish(fd, job, None)
                del job

    def _finish(self, fd: int, job: _Job, error: BaseException | None) -> None:
        del self._jobs[fd]
        self._ready.unregister(fd)
        done = job.done

        def finish() -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)

        try:
            self._loop.call_soon_threadsafe(finish)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    @staticmethod
    def _send_plain(job: _Job) -> int:
        """Send what goes; what the socket must be ready for before there is more to do."""
        limit = min(job.end, job.position + _TURN)
        while job.position < limit:
            wanted = limit - job.position
            try:
                sent = os.sendfile(job.stream.fd, job.fd, job.position, wanted)
            except (BlockingIOError, InterruptedError):
                break
            if sent == 0:
                raise FileTruncated(f"file ends at {job.position} of {job.end}")
            job.position += sent
            if sent < wanted:
                break  # the peer's buffer is full, or the file ends: both show soon
        return select.EPOLLOUT

    @staticmethod
    def _send_tls(job: _Job, buffer: memoryview) -> int:
        limit = min(job.end, job.position + _TURN)
        sock = job.stream.sock
        while job.position < limit:
            size = job.repeat or min(_TLS_WRITE, job.end - job.position)
            got = os.preadv(job.fd, [buffer[:size]], job.position)
            if got < size and (got == 0 or job.repeat):
                raise FileTruncated(f"file ends at {job.position + got} of {job.end}")
            try:
                sent = sock.send(buffer[:got])
            except ssl.SSLWantWriteError:
                job.repeat = got
                break
            except ssl.SSLWantReadError:
                job.repeat = got
                return select.EPOLLIN
            except OSError as error:
                forget(error)
                raise
            job.repeat = 0
            job.position += sent
        return select.EPOLLOUT


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
