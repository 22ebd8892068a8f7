"""Turns what happens in the rooms into log lines and figures."""

import binascii
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mender_gateway.cache.scrub import ScrubFigures
from mender_gateway.cache.settings import CacheSettings, Event, Figures, Kind
from mender_gateway.config.settings import Config
from mender_gateway.errors import MethodNotAllowed
from mender_gateway.http.exchange import Exchange
from mender_gateway.http.server import type_of_handler
from mender_gateway.net.refusal import Reason, Refused, reason_of, text_of
from mender_gateway.net.stream import Stream
from mender_gateway.observe.log import INFO, WARN, Log
from mender_gateway.observe.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from mender_gateway.net.certificate import ClientCertificate

_COUNTERS = {
    "mender_gateway_upstream_errors": "Requests for which upstream or storage failed or was late.",
    "mender_gateway_aborted_answers": "Answers that were cut off.",
    "mender_gateway_internal_errors": "Faults of the gateway's own.",
    "mender_gateway_storage_bytes": "Bytes of artifacts received from storage.",
    "mender_gateway_cache_bypasses": "Artifacts streamed past the cache.",
    "mender_gateway_refused_connections": "Connections refused: too many of one address.",
    "mender_gateway_rejected_artifacts": "Downloads refused: wrong checksum or signature.",
}

_DEVICE_LEFT = 499
"""Status in log and metrics of a request whose device was gone before an answer began."""

_LEVEL_OF_EVENT = {
    Kind.TROUBLE: "warn",
    Kind.NO_ROOM: "warn",
    Kind.FILL_BROKE: "warn",
    Kind.GAVE_UP: "error",
    Kind.CHANGED: "warn",
    Kind.REJECTED: "error",
    Kind.LOST: "warn",
    Kind.DAMAGED: "error",
}


class _Claims(msgspec.Struct):
    sub: str = ""


class Observer:
    """Receives the reports of all rooms."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._claims = msgspec.json.Decoder(_Claims)
        for name, text in _COUNTERS.items():
            metrics.count(name, text, 0)
        self._refusals: dict[Reason, int] = {}
        metrics.add_source(self._refusal_metrics)

    def _count(self, name: str, amount: float = 1) -> None:
        self._metrics.count(name, _COUNTERS[name], amount)

    # --- requests ------------------------------------------------------------------------------

    def answered(self, exchange: Exchange) -> None:
        request = exchange.request
        status = exchange.status or _DEVICE_LEFT
        self._metrics.answered(request.method, status, exchange.route, exchange.sent)
        if status in (502, 504) and exchange.fault:
            self._count("mender_gateway_upstream_errors")
        level = INFO if status < 400 else WARN
        if level >= self._log.level or status >= 500:
            self._log.access(
                request.method.decode("latin-1"),
                request.target.decode("latin-1"),
                status,
                exchange.sent,
                exchange.seconds,
                exchange.peer,
                self._device(request.index.get(b"authorization")),
                exchange.request_id,
                exchange.route,
                exchange.fault,
            )

    def _device(self, authorization: bytes | None) -> str | None:
        """The device's id from its token (claim `sub`), unverified: for the log only."""
        if authorization is None:
            return None
        parts = authorization.split(b".")
        if len(parts) != 3:
            return None
        try:
            payload = parts[1] + b"=" * (-len(parts[1]) % 4)
            return self._claims.decode(_base64url(payload)).sub or None
        except (ValueError, msgspec.DecodeError, RecursionError):
            return None

    def aborted(self, exchange: Exchange, error: Exception) -> None:
        self._count("mender_gateway_aborted_answers")
        self._log.warn(
            "answer was cut off",
            route=exchange.route,
            peer=exchange.peer,
            sent=exchange.sent,
            error=str(error) or type(error).__name__,
        )

    def handshake_failed(self, stream: Stream, error: Exception) -> None:
        reason = reason_of(error)
        self._refusals[reason] = self._refusals.get(reason, 0) + 1
        shown = error.shown if isinstance(error, Refused) else None
        self._log.once_per(
            60.0,
            f"handshake {stream.peer} {reason} {shown.fingerprint if shown else ''}",
            "warn",
            "TLS client refused",
            peer=stream.peer,
            reason=str(reason),
            detail=text_of(error),
            **(of_certificate(shown) if shown else {}),
        )

    def crowded(self, peer: str) -> None:
        """A connection was refused because its address has too many."""
        self._count("mender_gateway_refused_connections")
        self._log.once_per(
            60.0,
            f"crowded {peer}",
            "warn",
            "connections refused: one address has too many",
            peer=peer,
            advice="find out what it does, or raise Limits.ConnectionsPerAddress",
        )

    def cut(self, peer: str, certificate: "ClientCertificate", reason: Refused) -> None:
        """An open connection lost its certificate."""
        self._refusals[reason.reason] = self._refusals.get(reason.reason, 0) + 1
        self._log.warn(
            "connection cut: its certificate is refused by now",
            peer=peer,
            reason=str(reason.reason),
            detail=str(reason),
            **of_certificate(certificate),
        )

    def _refusal_metrics(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "mender_gateway_tls_handshake_failures",
            "TLS clients that were not let in.",
            labels=("reason",),
        )
        for reason, number in list(self._refusals.items()):
            family.add_metric((str(reason),), number)
        yield family

    def crashed(self, exchange: Exchange, error: Exception) -> None:
        self._count("mender_gateway_internal_errors")
        trace = "".join(traceback.format_exception(error)[-6:])
        self._log.error("internal error", route=exchange.route, error=repr(error), trace=trace)

    # --- artifacts and cache -------------------------------------------------------------------

    def storage_received(self, size: int) -> None:
        self._count("mender_gateway_storage_bytes", size)

    def bypassed(self, reason: str) -> None:
        self._count("mender_gateway_cache_bypasses")

    def rejected(self, object_id: str, reason: str) -> None:
        """An artifact that streams past the cache was refused; its last byte was withheld."""
        self.cache_event(Event(Kind.REJECTED, reason, object_id))

    def cache_event(self, event: Event) -> None:
        if event.kind is Kind.REJECTED:
            self._count("mender_gateway_rejected_artifacts")
        level = _LEVEL_OF_EVENT.get(event.kind, "info")
        fields = {"object": event.object_id} if event.object_id is not None else {}
        self._log.once_per(
            1.0,
            f"cache {event.kind} {event.object_id}",
            level,
            f"cache: {event.kind}",
            detail=event.text,
            **fields,
        )

    def cache_settings(self, config: Config) -> CacheSettings:
        cache = config.artifacts_proxy.cache
        return CacheSettings(
            max_size=cache.max_size,
            min_free_space=cache.min_free_space,
            give_up=config.limits.download_first_byte,
            open_patience=config.limits.download_first_byte,
        )

    def cache_metrics(self, figures: Figures) -> Iterator[Metric]:
        for name, text, value in (
            ("hits", "Artifact requests answered from a finished object.", figures.hits),
            ("misses", "Artifact requests that started a fill.", figures.misses),
            ("joins", "Artifact requests that joined a running fill.", figures.joins),
            ("evictions", "Objects evicted.", figures.evictions),
            ("fill_bytes", "Bytes received from storage by fills.", figures.origin_bytes),
        ):
            yield CounterMetricFamily(f"mender_gateway_cache_{name}", text, value=value)
        for name, text, value in (
            ("fills", "Fills in flight.", figures.fills),
            ("objects", "Finished objects.", figures.objects),
            ("stored_bytes", "Bytes of finished objects.", figures.stored_bytes),
            ("free_bytes", "Free bytes of the cache's file system.", figures.free_bytes),
            ("usable", "Whether the cache directory can be used.", int(figures.usable)),
        ):
            yield GaugeMetricFamily(f"mender_gateway_cache_{name}", text, value=value)

    def scrub_metrics(self, figures: ScrubFigures) -> Iterator[Metric]:
        for name, text, value in (
            ("scrubbed_objects", "Stored objects read again and compared.", figures.checked),
            ("scrubbed_bytes", "Their bytes.", figures.checked_bytes),
            ("damaged_objects", "Stored objects found damaged and removed.", figures.damaged),
        ):
            yield CounterMetricFamily(f"mender_gateway_cache_{name}", text, value=value)

    def handler(
        self, probes: type_of_handler, refresh: Callable[[], Awaitable[None]]
    ) -> type_of_handler:
        """The metrics listener's handler: /metrics, and the probes."""

        async def handle(exchange: Exchange) -> None:
            if exchange.request.target.partition(b"?")[0] != b"/metrics":
                await probes(exchange)
                return
            exchange.route = "metrics"
            if exchange.request.method not in (b"GET", b"HEAD"):
                raise MethodNotAllowed
            await refresh()
            await exchange.respond(200, [(b"Content-Type", CONTENT_TYPE)], self._metrics.render())

        return handle


def of_certificate(certificate: "ClientCertificate") -> dict[str, object]:
    """What an operator needs to find a certificate, as fields of a log line."""
    return {
        "subject": certificate.subject,
        "serial": certificate.serial_text,
        "issuer": certificate.issuer,
        "expires": datetime.fromtimestamp(certificate.ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _base64url(text: bytes) -> bytes:
    return binascii.a2b_base64(text.translate(_URL_ALPHABET))


_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
