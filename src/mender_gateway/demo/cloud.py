"""What lies beyond the uplink, as one: the upstream, its store, and the line between them and us.

`Cloud` lives on an event loop; `running` gives it a thread of its own for everything synchronous.
"""

import asyncio
import concurrent.futures
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import uvloop

from mender_gateway.demo.apis.devauth import Generation
from mender_gateway.demo.storage import LINK_LIFE, Storage
from mender_gateway.demo.uplink import Uplink
from mender_gateway.demo.upstream import Upstream

START_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class CloudSettings:
    """`tls`, where given, is for the upstream's listener, `storage_tls` for the store's."""

    uplink: float | None = None
    """Bits per second of the store's answers; None: unlimited."""
    generation: Generation = "4.1"
    api_v2: bool = False
    accept_all: bool = False
    tls: ssl.SSLContext | None = None
    storage_tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    port: int = 0
    storage_port: int = 0
    bucket: str = "mender"
    link_life: int = LINK_LIFE
    """Seconds that storage links live."""
    configuration_host: str | None = None
    """Host of configuration links; None: as the request says."""
    storage_on_upstream: bool = False
    """Storage links name the upstream's host instead of the store's own."""
    clock: Callable[[], float] = time.time


class Cloud:
    """An asynchronous context manager: inside, both servers listen."""

    def __init__(self, settings: CloudSettings | None = None) -> None:
        self.settings = settings or CloudSettings()
        self.uplink = Uplink(self.settings.uplink)
        self.storage = Storage(
            self.uplink,
            bucket=self.settings.bucket,
            link_life=self.settings.link_life,
            clock=self.settings.clock,
        )
        self.upstream = Upstream(
            self.storage,
            generation=self.settings.generation,
            api_v2=self.settings.api_v2,
            accept_all=self.settings.accept_all,
            link_scheme="https" if self.settings.tls else "http",
            link_host=self.settings.configuration_host,
            clock=self.settings.clock,
        )

    async def __aenter__(self) -> "Cloud":
        settings = self.settings
        await self.storage.start(settings.host, settings.storage_port, settings.storage_tls)
        await self.upstream.start(settings.host, settings.port, settings.tls)
        if settings.storage_on_upstream:
            self.storage.base = self.upstream.base
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.upstream.close()
        await self.storage.close()


@contextmanager
def running(settings: CloudSettings | None = None) -> Iterator[Cloud]:
    """A cloud in a thread with its own loop; everything on it may be called from outside."""
    started: concurrent.futures.Future[tuple[Cloud, asyncio.Event]] = concurrent.futures.Future()

    async def main() -> None:
        stop = asyncio.Event()
        async with Cloud(settings) as cloud:
            started.set_result((cloud, stop))
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="demo-cloud", daemon=True)
    thread.start()
    cloud, stop = started.result(START_DEADLINE)
    try:
        yield cloud
    finally:
        cloud.upstream.loop.call_soon_threadsafe(stop.set)
        thread.join(START_DEADLINE)
        if thread.is_alive():
            raise TimeoutError("the cloud's thread did not end")
