"""Mutual TLS, composed: the gate from the settings, its files under watch, its figures.

Imported only when mutual TLS is enabled, and with it `cryptography`. A change of the files builds a
new trust beside the old one; a bad file leaves the old one in force and says so.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mender_gateway.config.settings import Config
from mender_gateway.devices.provisioning import Provisioning
from mender_gateway.errors import ConfigError
from mender_gateway.management.calls import Calls
from mender_gateway.management.devices import DeviceAuthentication
from mender_gateway.management.login import Login
from mender_gateway.net.gate import Gate
from mender_gateway.net.trust import BadTrust, Trust, TrustFiles, load_trust
from mender_gateway.net.watch import look
from mender_gateway.observe.log import Log
from mender_gateway.observe.metrics import Metrics
from mender_gateway.observed import Observer
from mender_gateway.proxy.forward import Forwarder

_STALE_LOOK = 60.0
_STALE_SAID = 3600.0


def trust_files(config: Config) -> TrustFiles:
    """What the settings name; raises ConfigError for what is missing."""
    https, mtls = config.https, config.mtls
    if https.server_certificate is None or https.server_key is None:
        raise ConfigError("HTTPS.ServerCertificate and HTTPS.ServerKey: missing")
    if mtls.ca_certificate is None:
        raise ConfigError("Features.mTLS.CACertificate: missing")
    return TrustFiles(
        certificate=https.server_certificate,
        key=https.server_key,
        roots=mtls.ca_certificate,
        minimum=https.minimum_tls_version,
        blacklist=mtls.blacklist_path,
        crl=mtls.crl_path,
        crl_required=mtls.crl_required,
        skip_leaf_expiry=mtls.insecure_skip_client_expire_after,
    )


class MutualTls:
    """Owns the gate; `reload` may be called again and again."""

    def __init__(
        self,
        config: Config,
        log: Log,
        metrics: Metrics,
        observer: Observer,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Reads the files; raises ConfigError."""
        self._files = trust_files(config)
        self._settings = config.mtls
        self.looked = look(self.watched())
        self._log = log
        self._loop = loop
        try:
            trust = load_trust(self._files)
        except BadTrust as error:
            raise ConfigError(f"{error.what}: {error}") from error
        self._warn(trust)
        self.gate = Gate(trust, observer.cut, loop)
        self._limits = config.limits
        self._login: Login | None = None
        self._provisioning: Provisioning | None = None
        metrics.add_source(self._figures)

    def provisioning(self, forwarder: Forwarder) -> Provisioning:
        """The handler of auth requests; asks the management API of the forwarder's upstream."""
        calls = Calls(forwarder.pool, forwarder.upstream, self._limits)
        self._login = Login(calls, self._settings, self._log, self._loop)
        devices = DeviceAuthentication(calls, self._login, self._log)
        self._provisioning = Provisioning(forwarder, devices, self._settings, self._log, self._loop)
        return self._provisioning

    def close(self) -> None:
        """Give up what is being authorised."""
        if self._provisioning is not None:
            self._provisioning.close()
        if self._login is not None:
            self._login.close()

    def watched(self) -> list[str]:
        secrets = (self._settings.mender_password_file, self._settings.mender_token_file)
        return [*self._files.watched(), *(path for path in secrets if path is not None)]

    async def reload(self) -> None:
        """Read all files anew; raises ConfigError, with the old ones still in force."""
        if self._login is not None:
            await self._login.look_again()
        try:
            trust = await self._loop.run_in_executor(None, load_trust, self._files)
        except BadTrust as error:
            raise ConfigError(f"{error.what}: {error}") from error
        self._warn(trust)
        cut = await self.gate.replace(trust)
        revocations = trust.rules.revocations
        self._log.info(
            "certificates, blacklist and revocation lists were read anew",
            blacklisted=len(trust.rules.blacklist),
            revoked=sum(len(each.serials) for each in revocations.lists) if revocations else 0,
            cut=cut,
        )

    async def remind(self) -> None:
        """Warn of stale lists, once an hour each; runs until it is cancelled."""
        with suppress(asyncio.CancelledError):
            while True:
                revocations = self.gate.trust.rules.revocations
                for each in revocations.stale(time.time()) if revocations else ():
                    self._log.once_per(
                        _STALE_SAID,
                        f"stale {each.source} {each.issuer}",
                        "warn",
                        "a revocation list is past its nextUpdate, or from the future, and stays "
                        "in force",
                        file=each.source,
                        issuer=each.issuer,
                    )
                await asyncio.sleep(_STALE_LOOK)

    def _warn(self, trust: Trust) -> None:
        for warning in trust.warnings:
            self._log.warn(warning)

    def _figures(self) -> Iterator[Metric]:
        rules = self.gate.trust.rules
        lists = rules.revocations
        for name, text, value in (
            (
                "mtls_connections",
                "Open connections with a verified certificate.",
                self.gate.inside,
            ),
            ("mtls_blacklisted", "Serial numbers on the blacklist.", len(rules.blacklist)),
            ("crl_lists", "Revocation lists in force.", len(lists.lists) if lists else 0),
            (
                "crl_stale",
                "Revocation lists in force that are past their nextUpdate, or from the future.",
                len(lists.stale(time.time())) if lists else 0,
            ),
        ):
            yield GaugeMetricFamily(f"mender_gateway_{name}", text, value=value)
        if self._login is None or self._provisioning is None:
            return
        yield CounterMetricFamily(
            "mender_gateway_management_logins",
            "Logins at the management API.",
            value=self._login.logins,
        )
        outcomes = CounterMetricFamily(
            "mender_gateway_auth_requests",
            "Auth requests of devices with a certificate.",
            labels=("outcome",),
        )
        for outcome, number in list(self._provisioning.outcomes.items()):
            outcomes.add_metric((str(outcome),), number)
        yield outcomes
