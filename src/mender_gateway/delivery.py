"""The delivery of artifacts, composed: links, storage, verification, cache and scrubber.

Built when ArtifactsProxy is enabled. What the settings name and cannot be used (a key of
ArtifactVerifyKeys) is found before a port is opened; an unusable cache directory is no error.
"""

import asyncio
import os
import ssl

from mender_gateway.artifacts.clock import Clock
from mender_gateway.artifacts.deployments import Deployments
from mender_gateway.artifacts.download import Downloads
from mender_gateway.artifacts.origin import Seen, Storage
from mender_gateway.artifacts.rate import RateLimit
from mender_gateway.artifacts.reports import Reports, Rollouts
from mender_gateway.artifacts.secret import load as load_secret
from mender_gateway.artifacts.signature import load_keys
from mender_gateway.artifacts.signing import Signer
from mender_gateway.artifacts.trust import Trust
from mender_gateway.artifacts.verify import Verification
from mender_gateway.artifacts.whitelist import Whitelist
from mender_gateway.cache.cache import Cache
from mender_gateway.cache.scrub import Scrubber
from mender_gateway.cache.settings import Event
from mender_gateway.cache.shelf import Shelf
from mender_gateway.config.settings import Config
from mender_gateway.errors import ConfigError
from mender_gateway.http.client import Pool
from mender_gateway.observe.log import Log
from mender_gateway.observe.metrics import Metrics
from mender_gateway.observed import Observer
from mender_gateway.proxy.forward import Forwarder

_REMOVAL = 30.0
"""Seconds for a damaged object's removal."""


class Delivery:
    """Owns the cache and its scrubber from `start` to `close`. Raises ConfigError when made."""

    def __init__(
        self,
        config: Config,
        log: Log,
        pool: Pool,
        forwarder: Forwarder,
        clock: Clock,
        observer: Observer,
        metrics: Metrics,
        context: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        proxy = config.artifacts_proxy
        url = proxy.gateway_url
        if url is None:
            raise ConfigError("Features.ArtifactsProxy.GatewayURL: missing")
        self._loop = loop
        self._observer = observer
        self._shelf = Shelf(proxy.cache.path)
        self.cache = self._make_cache(config, metrics) if proxy.cache.enabled else None
        self._scrubber = self._make_scrubber(proxy.cache.scrub_interval, metrics)
        signer = _make_signer(config, log)
        whitelist = Whitelist.parse(proxy.domain_whitelist)
        seen, rollouts = Seen(), Rollouts()
        rate = proxy.cache.uplink_rate
        storage = Storage(
            pool,
            whitelist,
            lambda: context,
            config.limits,
            observer.storage_received,
            RateLimit(rate, loop.time) if rate is not None else None,
        )
        verification = Verification(load_keys(proxy.verify_keys), storage.plain_md5)
        upstream = config.upstream.url
        self.deployments = Deployments(
            forwarder,
            signer,
            whitelist,
            seen,
            clock,
            log,
            rollouts,
            base=url,
            own_hosts=frozenset({(upstream.host, upstream.port), (url.host, url.port)}),
            link_lifetime=proxy.cache.link_expire,
        )
        self.downloads = Downloads(
            signer,
            storage,
            self.cache,
            seen,
            clock,
            config.limits,
            observer.bypassed,
            verification,
            Trust(verification, self._shelf.description, observer.rejected),
        )
        self.reports = None
        if self._scrubber is not None:
            self.reports = Reports(forwarder, rollouts, self._scrubber.suspect)

    def _make_cache(self, config: Config, metrics: Metrics) -> Cache:
        cache = Cache(
            config.artifacts_proxy.cache.path,
            settings=self._observer.cache_settings(config),
            report=self._observer.cache_event,
        )
        metrics.add_source(lambda: self._observer.cache_metrics(cache.figures()))
        return cache

    def _make_scrubber(self, interval: float, metrics: Metrics) -> Scrubber | None:
        cache = self.cache
        if cache is None:
            return None

        def remove(object_id: str) -> None:
            removal = asyncio.run_coroutine_threadsafe(cache.remove(object_id), self._loop)
            try:
                removal.result(_REMOVAL)
            except Exception as error:
                raise OSError(f"{object_id} cannot be removed: {error!r}") from error

        def report(event: Event) -> None:
            self._loop.call_soon_threadsafe(self._observer.cache_event, event)

        scrubber = Scrubber(self._shelf, interval, remove, report)
        metrics.add_source(lambda: self._observer.scrub_metrics(scrubber.figures))
        return scrubber

    async def start(self) -> None:
        if self.cache is not None:
            await self.cache.start()
        if self._scrubber is not None:
            self._scrubber.start()

    async def close(self) -> None:
        """Ends the scrubber, then fills; what has arrived stays."""
        if self._scrubber is not None:
            await self._loop.run_in_executor(None, self._scrubber.close)
        if self.cache is not None:
            await self.cache.close()


def _make_signer(config: Config, log: Log) -> Signer:
    configured = config.artifacts_proxy.cache.signature_secret
    try:
        secret, previous = load_secret(config.state_dir, configured)
    except OSError as error:
        secret, previous = configured or os.urandom(32), None
        log.warn(
            "StateDir cannot be used; artifact links end with this process unless "
            "SignatureSecret is configured",
            state_dir=config.state_dir,
            error=str(error),
        )
    return Signer(secret, previous)
