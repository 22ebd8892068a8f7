"""TLS of the devices' listener without client certificates: the server's certificate and key.

`mender_gateway.mutual_tls` is its sibling with the same methods for mutual TLS.
"""

import asyncio
import ssl

from mender_gateway.config.settings import Config
from mender_gateway.errors import ConfigError
from mender_gateway.net.tls import server_context
from mender_gateway.net.watch import look
from mender_gateway.proxy.forward import Forwarder


class PlainTls:
    """Owns the context; `reload` may be called again and again."""

    gate = None

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        """Reads the files; raises ConfigError."""
        self._https = config.https
        self._loop = loop
        self.looked = look(self.watched())
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """What new connections use."""
        return self._context

    def watched(self) -> list[str]:
        return [path for path in (self._https.server_certificate, self._https.server_key) if path]

    def provisioning(self, forwarder: Forwarder) -> None:
        """Without certificates there is nobody to authorise."""

    def close(self) -> None:
        """There is nothing to end."""

    async def reload(self) -> None:
        """Read the files anew; raises ConfigError, with the old ones still in force."""
        self._context = await self._loop.run_in_executor(None, self._load)

    async def remind(self) -> None:
        """Nothing here grows stale."""

    def _load(self) -> ssl.SSLContext:
        https = self._https
        if https.server_certificate is None or https.server_key is None:
            raise ConfigError("HTTPS.ServerCertificate and HTTPS.ServerKey: missing")
        try:
            return server_context(
                https.server_certificate, https.server_key, https.minimum_tls_version
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"HTTPS.ServerCertificate {https.server_certificate}, "
                f"HTTPS.ServerKey {https.server_key}: {error}"
            ) from error
