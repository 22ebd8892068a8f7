"""The composition root: every room is built here from the configuration, started and stopped.

Whatever can be wrong with files is found before a port is opened. Stopping closes the listeners
first, then idle connections and tunnels, lets running answers finish within the grace period, and
ends the rest.
"""

import asyncio
import ipaddress
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import uvloop

from mender_gateway import __version__
from mender_gateway.artifacts.clock import Clock
from mender_gateway.cache.errors import DiskTrouble
from mender_gateway.config.load import Loaded
from mender_gateway.config.settings import Address, Config
from mender_gateway.delivery import Delivery
from mender_gateway.devices.handler import Inventory
from mender_gateway.entrance import PlainTls
from mender_gateway.errors import ConfigError
from mender_gateway.health import Health
from mender_gateway.http.client import Pool
from mender_gateway.http.client import Server as Upstream
from mender_gateway.http.exchange import Budget
from mender_gateway.http.message import Answer
from mender_gateway.http.server import Reports, Server, type_of_handler
from mender_gateway.net.bulk import Bulk
from mender_gateway.net.listener import Listener, Places, bind
from mender_gateway.net.outbound import Connector, OutboundProxy
from mender_gateway.net.poller import Poller
from mender_gateway.net.tls import client_context, storage_context
from mender_gateway.net.watch import FileWatch
from mender_gateway.observe.log import Log
from mender_gateway.observe.metrics import Metrics
from mender_gateway.observed import Observer
from mender_gateway.proxy.forward import Forwarder
from mender_gateway.proxy.shares import Shares
from mender_gateway.proxy.tunnel import Tunnels
from mender_gateway.routes import Router

if TYPE_CHECKING:
    from mender_gateway.mutual_tls import MutualTls

_LAST_WORDS = 5.0
"""Seconds for connections to end after the grace period."""
_OWN_CONNECTIONS = 64
"""Connections of the metrics listener: of Prometheus and of probes."""
_RELOAD_AGAIN = 10.0
"""Seconds after which files that could not be used are tried again, in case nothing is wrong with
them: descriptors or memory may have run out."""


def run(loaded: Loaded, log: Log) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises ConfigError before a port is open."""
    _raise_descriptor_limit(loaded.config.limits.connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(loaded, log))


async def _serve(loaded: Loaded, log: Log) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    gateway = Gateway(loaded.config, log, loop)
    # Not by the loop's own means: closing the loop would restore the default of ending the process
    # by the signal, for the moments in which the status 0 is on its way.
    for number in (signal.SIGTERM, signal.SIGINT):
        _on_signal(number, loop, stopping.set)
    _on_signal(signal.SIGHUP, loop, gateway.reload)
    try:
        await gateway.start()
        await stopping.wait()
        log.info("stopping")
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        await gateway.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    log.info("stopped")
    return 0


def _on_signal(
    number: signal.Signals, loop: asyncio.AbstractEventLoop, act: Callable[[], None]
) -> None:
    signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


class Gateway:
    """All rooms of one process."""

    def __init__(self, config: Config, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._poller = Poller(loop)
        self._bodies = Budget(16 * config.limits.json_bytes)
        self._metrics = Metrics()
        self._observer = Observer(log, self._metrics)
        self._trusted_networks = [
            ipaddress.ip_network(text, strict=False) for text in config.trusted_proxies
        ]
        self._places = Places(
            config.limits.connections,
            config.limits.connections_per_address,
            self._is_trusted,
            self._observer.crowded,
        )
        # Whoever takes all places of devices must not make the gateway look dead.
        self._own_places = Places(
            _OWN_CONNECTIONS, _OWN_CONNECTIONS, self._is_trusted, self._observer.crowded
        )
        self._clock = Clock(
            lambda seconds: log.warn(
                "the local clock differs from the server's; links use the server's time",
                seconds=round(seconds),
            )
        )
        self._entrance = self._make_entrance()
        self._pool = Pool(self._make_connector(), config.limits, loop)
        upstream_context = None
        if config.upstream.url.scheme == "https":
            upstream_context = self._make_context(client_context, "UpstreamServer.CACertificate")
        self._upstream = Upstream(config.upstream.url, upstream_context)
        self._forwarder = self._make_forwarder()
        self._tunnels = Tunnels(self._forwarder)
        self._delivery = None
        if config.artifacts_proxy.enabled:
            context = self._make_context(storage_context, "UpstreamServer.CACertificate")
            self._delivery = Delivery(
                config,
                log,
                self._pool,
                self._forwarder,
                self._clock,
                self._observer,
                self._metrics,
                context,
                loop,
            )
        self._cache = self._delivery.cache if self._delivery is not None else None
        self._health = Health(self._pool, self._upstream, self._cache, loop)
        self._router = Router(self._forwarder, self._tunnels, self._health.check)
        if self._delivery is not None:
            self._router.deployments = self._delivery.deployments
            self._router.downloads = self._delivery.downloads
            self._router.reports = self._delivery.reports
        system = config.device_system
        if system.enabled and system.system_id is not None:
            self._router.inventory = Inventory(
                self._forwarder, system.system_id, system.default_inventory
            )
        if self._entrance is not None:
            self._router.provisioning = self._entrance.provisioning(self._forwarder)
        self._bulk = Bulk(loop, threads=min(4, max(2, os.cpu_count() or 2)))
        self._servers: list[Server] = []
        self._listeners: list[Listener] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._watch: FileWatch | None = None
        self._reloading = asyncio.Lock()
        self._again: asyncio.TimerHandle | None = None

    # --- building ------------------------------------------------------------------------------

    def _make_entrance(self) -> "PlainTls | MutualTls | None":
        config = self._config
        if config.mtls.enabled:
            from mender_gateway.mutual_tls import MutualTls  # and cryptography, here alone

            return MutualTls(config, self._log, self._metrics, self._observer, self._loop)
        return PlainTls(config, self._loop) if config.https.enabled else None

    def _make_context(
        self, make: Callable[[str | None, bool], ssl.SSLContext], key: str
    ) -> ssl.SSLContext:
        upstream = self._config.upstream
        try:
            return make(upstream.ca_certificate, upstream.insecure_skip_verify)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key} {upstream.ca_certificate}: {error}") from error

    def _make_connector(self) -> Connector:
        proxies = self._config.proxies
        made = []
        for key, url in (("HTTP_PROXY", proxies.http), ("HTTPS_PROXY", proxies.https)):
            try:
                made.append(OutboundProxy.parse(url) if url else None)
            except ValueError as error:
                raise ConfigError(f"{key}: {error}") from error
        return Connector(self._poller, made[0], made[1], proxies.no_proxy)

    def _make_forwarder(self) -> Forwarder:
        config = self._config
        url = config.artifacts_proxy.gateway_url if config.artifacts_proxy.enabled else None

        def on_answer(answer: Answer) -> None:
            date = answer.index.get(b"date")
            if date is not None:
                self._clock.heard(date)

        shares = Shares(
            config.limits.upstream_connections_per_address,
            config.limits.connect,
            self._is_trusted,
            self._loop,
        )
        return Forwarder(
            self._pool,
            self._upstream,
            config.limits,
            shares,
            forwarded_host=(url or config.upstream.url).authority.encode(),
            trusted=self._is_trusted,
            on_answer=on_answer,
        )

    def _is_trusted(self, peer: str) -> bool:
        """Whether it is one of TrustedProxies, which stand for many devices."""
        if not self._trusted_networks:
            return False
        address = ipaddress.ip_address(peer.partition("%")[0])
        return any(address in network for network in self._trusted_networks)

    # --- starting and stopping -----------------------------------------------------------------

    async def start(self) -> None:
        """Open the listeners; raises ConfigError for an address that cannot be had."""
        config, router = self._config, self._router
        wanted: list[tuple[str, str, Address, type_of_handler, bool]] = []
        if config.http.enabled:
            handle = router.handle_probe if config.mtls.enabled else router.handle
            wanted.append(("HTTP", "http", config.http.listen, handle, False))
        if config.https.enabled:
            wanted.append(("HTTPS", "https", config.https.listen, router.handle, True))
        sockets = []
        try:
            for key, _, address, _, _ in wanted:
                try:
                    sockets.append(bind(address.host, address.port))
                except OSError as error:
                    raise ConfigError(f"{key}.Listen {address}: {error.strerror}") from error
        except ConfigError:
            for sock in sockets:
                sock.close()
            raise
        if self._delivery is not None:
            await self._delivery.start()
        self._log.info(
            "mender-gateway starts", version=__version__, upstream=str(config.upstream.url)
        )
        for sock, (_, scheme, _, handler, secure) in zip(sockets, wanted, strict=True):
            self._listen(sock, scheme, scheme, handler, secure)
        if config.metrics.enabled:
            try:
                sock = bind(config.metrics.listen.host, config.metrics.listen.port)
            except OSError as error:
                self._log.error(
                    "metrics are not served", listen=str(config.metrics.listen), error=str(error)
                )
            else:
                handler = self._observer.handler(router.handle_own, self._refresh)
                self._listen(sock, "metrics", "http", handler, False)
        self._watch_files()

    def _listen(
        self, sock: socket.socket, name: str, scheme: str, handler: type_of_handler, secure: bool
    ) -> None:
        entrance = self._entrance if secure else None
        places = self._own_places if name == "metrics" else self._places
        server = Server(
            handler,
            scheme=scheme,
            limits=self._config.limits,
            bulk=self._bulk,
            places=places,
            budget=self._bodies,
            reports=Reports(
                self._observer.answered,
                self._observer.aborted,
                self._observer.handshake_failed,
                self._observer.crashed,
            ),
            loop=self._loop,
            gate=entrance.gate if entrance else None,
        )
        listener = Listener(
            sock,
            self._poller,
            places,
            server.serve,
            entrance.context if isinstance(entrance, PlainTls) else None,
        )
        self._servers.append(server)
        self._listeners.append(listener)
        host, port = listener.address
        self._log.info("listening", listener=name, address=str(Address(host, port)))

    async def _refresh(self) -> None:
        if self._cache is not None:
            try:
                await self._cache.recent_figures()
            except DiskTrouble as error:
                self._log.once_per(60.0, "figures", "warn", "cache: no figures", error=str(error))

    def _watch_files(self) -> None:
        entrance = self._entrance
        if entrance is None:
            return
        self._spawn(entrance.remind())

        def changed() -> None:
            self._loop.call_soon_threadsafe(self.reload)

        self._watch = FileWatch(entrance.watched(), changed, entrance.looked)
        self._watch.start()

    def reload(self) -> None:
        """Read certificates, keys and lists anew (SIGHUP, or because a file has changed)."""
        self._spawn(self._reload(silent=False))

    async def _reload(self, *, silent: bool) -> None:
        """Bad files leave the old ones in force; `silent`: it was said before that they are bad."""
        async with self._reloading:
            if self._again is not None:
                self._again.cancel()
                self._again = None
            try:
                if self._entrance is not None:
                    await self._entrance.reload()
            except ConfigError as error:
                if not silent:
                    self._log.error("reload failed, what was in force stays", error=str(error))
                self._again = self._loop.call_later(
                    _RELOAD_AGAIN, lambda: self._spawn(self._reload(silent=True))
                )
            else:
                self._log.info("reloaded")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def stop(self) -> None:
        """Drain and end everything; returns within the grace period and a few seconds."""
        if self._watch is not None:
            self._watch.close()
        if self._again is not None:
            self._again.cancel()
        for listener in self._listeners:
            listener.close()
        for server in self._servers:
            server.draining = True
        for stream in [*self._places.idle, *self._own_places.idle]:
            stream.close()
        self._tunnels.close()
        tasks = {task for listener in self._listeners for task in listener.tasks}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._config.limits.shutdown_grace)
            for task in late:
                task.cancel()
            if late:
                self._log.warn("requests were cut off at shutdown", count=len(late))
                await asyncio.wait(late, timeout=_LAST_WORDS)
        for task in self._background:
            task.cancel()
        if self._entrance is not None:
            self._entrance.close()
        if self._delivery is not None:
            await self._delivery.close()
        self._pool.close()
        await self._loop.run_in_executor(None, self._bulk.close)
        self._poller.close()


def _raise_descriptor_limit(connections: int) -> None:
    """Let the process have a descriptor for both ends of every connection, as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + 1024
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
