"""Where disk calls run, so that none ever waits on the event loop.

A job cannot be interrupted: when its caller is cancelled or loses patience the job goes on, and
what it returns is handed to `discard`, so that no descriptor is lost. Errors of the disk come out
as `DiskTrouble`; callers of these rooms never have to tell them from errors of a network.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mender_gateway.cache.errors import DiskTrouble

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A few threads each for short calls, for writing and fsync, and for what takes long.

    They are apart so that a slow fsync does not keep a finished object from being opened, and the
    verification of a large one does not hold up a fill.
    """

    def __init__(self, patience: float, *, size: int = 4) -> None:
        self._patience = patience
        self._short = ThreadPoolExecutor(size, thread_name_prefix="cache-disk")
        self._writing = ThreadPoolExecutor(size, thread_name_prefix="cache-write")
        self._long = ThreadPoolExecutor(size, thread_name_prefix="cache-long")
        self._jobs: set[asyncio.Future[object]] = set()
        self._overdue: set[asyncio.Future[object]] = set()

    @property
    def stuck(self) -> bool:
        """Whether a short job has not returned in time and still has not."""
        return bool(self._overdue)

    async def run(
        self,
        job: Callable[[], T],
        *,
        discard: Callable[[T], None] | None = None,
        patience: float | None = None,
    ) -> T:
        """Runs a short job; raises DiskTrouble for its OSError, or when it takes too long."""
        future = self._submit(self._short, job)
        return await self._outcome(future, discard, patience or self._patience)

    async def run_long(self, job: Callable[[], T]) -> T:
        """Runs a job that may take long: reading a whole file, committing.

        A caller that is cancelled still waits for the job's end, so that it may close what the job
        uses.
        """
        future = self._submit(self._long, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            raise
        except OSError as error:
            raise DiskTrouble(str(error)) from error

    def write(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Runs a writing job; `done` is called on the loop, with its error if it had one."""
        future = self._submit(self._writing, job)
        future.add_done_callback(lambda f: done(_translated(f.exception())))

    def later(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """Runs a short job that nobody has to wait for; its errors are of no interest."""
        future = self._submit(self._short, job)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    def _submit(self, pool: ThreadPoolExecutor, job: Callable[[], T]) -> "asyncio.Future[T]":
        future = asyncio.get_running_loop().run_in_executor(pool, job)
        self._jobs.add(future)  # type: ignore[arg-type]
        future.add_done_callback(self._jobs.discard)
        return future

    async def _outcome(
        self,
        future: "asyncio.Future[T]",
        discard: Callable[[T], None] | None,
        patience: float,
    ) -> T:
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(future)
        except (asyncio.CancelledError, TimeoutError) as error:
            if future.done() and not future.cancelled() and future.exception() is error:
                raise DiskTrouble(str(error)) from error  # ETIMEDOUT from the disk itself
            future.add_done_callback(lambda f: self._abandoned(f, discard))
            if isinstance(error, TimeoutError):
                self._overdue.add(future)  # type: ignore[arg-type]
                future.add_done_callback(self._overdue.discard)
                raise DiskTrouble(f"the disk has not answered for {patience:g} s") from None
            raise
        except OSError as error:
            raise DiskTrouble(str(error)) from error

    def _abandoned(self, future: "asyncio.Future[T]", discard: Callable[[T], None] | None) -> None:
        if future.cancelled() or future.exception() is not None or discard is None:
            return
        result = future.result()
        self.later(lambda: discard(result))

    async def settle(self, patience: float) -> None:
        """Waits for the jobs that run, at most `patience` seconds."""
        deadline = asyncio.get_running_loop().time() + patience
        while self._jobs and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._jobs), timeout=left)

    def close(self) -> None:
        """Takes no more jobs; does not wait for those that run."""
        self._short.shutdown(wait=False)
        self._writing.shutdown(wait=False)
        self._long.shutdown(wait=False)


def _translated(error: BaseException | None) -> BaseException | None:
    if isinstance(error, OSError):
        trouble = DiskTrouble(str(error))
        trouble.__cause__ = error
        return trouble
    return error
