"""A rollout to a fleet of simulated devices, timed and observed.

All devices are powered on first; then one deployment is made for all of them and timed until the
last one is done. An observer is told what happens; it decides how that is shown.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mender_gateway.demo.artifact import ArtifactFile
from mender_gateway.demo.device import DeviceReport, DeviceSettings, SimulatedDevice
from mender_gateway.demo.download import DownloadRules
from mender_gateway.demo.figures import CacheFigures, scrape
from mender_gateway.demo.keys import KeyKind
from mender_gateway.demo.process import GatewayFailed
from mender_gateway.demo.site import DEVICE_TYPE, RELEASE, FleetPlan, Site

POWER_ON_DEADLINE = 60.0
"""Seconds until every device has authenticated and sent its inventory."""

OBSERVED_EVERY = 0.25
SCRAPED_EVERY = 1.0

_KINDS: tuple[KeyKind, ...] = ("ec", "ed25519", "ec")


@dataclass(frozen=True, slots=True)
class DeviceProgress:
    name: str
    state: str
    received: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The rollout at one moment; rates in bytes per second over the last second or so."""

    seconds: float
    devices: tuple[DeviceProgress, ...]
    uplink_bytes: int
    delivered_bytes: int
    uplink_rate: float
    local_rate: float
    cache: CacheFigures | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a rollout."""

    plan: FleetPlan
    artifact: ArtifactFile
    reports: tuple[DeviceReport, ...]
    uplink_bytes: int
    seconds: float
    cache: CacheFigures | None

    @property
    def succeeded(self) -> int:
        return sum(self.good(report) for report in self.reports)

    @property
    def delivered_bytes(self) -> int:
        return sum(report.size for report in self.reports)

    @property
    def ideal_seconds(self) -> float:
        """The time that the artifact takes to cross the uplink once."""
        return self.artifact.size * 8 / self.plan.uplink

    def good(self, report: DeviceReport) -> bool:
        """Whether the device finished with the right bytes."""
        return report.result == "success" and report.sha256 == self.artifact.sha256

    def as_json(self) -> dict[str, Any]:
        return {
            "devices": len(self.reports),
            "succeeded": self.succeeded,
            "uplink_bytes": self.uplink_bytes,
            "delivered_bytes": self.delivered_bytes,
            "seconds": round(self.seconds, 3),
            "ideal_seconds": round(self.ideal_seconds, 3),
            "per_device": [
                {
                    "device": report.identity["mac"],
                    "result": report.result,
                    "reason": report.reason,
                    "checksum_ok": report.sha256 == self.artifact.sha256,
                    "bytes": report.size,
                    "seconds": round(report.seconds, 3),
                    "attempts": report.attempts,
                    "resumed": report.resumed,
                    "errors": report.errors,
                }
                for report in self.reports
            ],
        }


class Observer(Protocol):
    def phase(self, text: str) -> None:
        """A step begins."""

    def progress(self, progress: Progress) -> None:
        """Told several times a second during a rollout."""


def _device(site: Site, number: int) -> SimulatedDevice:
    high, low = divmod(number, 256)
    settings = DeviceSettings(
        server=site.url,
        identity={"mac": f"02:de:00:00:{high:02x}:{low:02x}"},
        device_type=DEVICE_TYPE,
        key=_KINDS[number % len(_KINDS)],
        tls=site.tls,
        retry=1.0,
        poll=0.5,
        download=DownloadRules(wait=2.0),
        expected_sha256=site.artifact.sha256,
    )
    return SimulatedDevice(settings)


async def rollout(site: Site, observer: Observer) -> Summary:
    """Powers the fleet on, deploys to all of it, waits for the last device, at most for the
    plan's deadline. `GatewayFailed` when the gateway ends on the way."""
    plan = site.plan
    devices = [_device(site, number) for number in range(plan.devices)]
    try:
        observer.phase(f"powering on {plan.devices} devices")
        await _power_on(devices)
        observer.phase("deploying")
        ready = [d for d in devices if d.token is not None]
        site.cloud.upstream.deploy(RELEASE, [d.settings.identity for d in ready])
        started, before = time.monotonic(), site.cloud.uplink.bytes_passed
        watching = asyncio.create_task(_watch(site, devices, observer, started, before))
        finishing = asyncio.create_task(_finish_all(ready, plan.deadline))
        try:
            await asyncio.wait({watching, finishing}, return_when=asyncio.FIRST_COMPLETED)
            seconds = max(time.monotonic() - started, 0.001)
            if watching.done():
                await watching
        finally:
            watching.cancel()
            finishing.cancel()
            await asyncio.gather(watching, finishing, return_exceptions=True)
        uplink_bytes = site.cloud.uplink.bytes_passed - before
        reports = tuple(device.report for device in devices)
        cache = await scrape(site.gateway.addresses["metrics"])
        rates = (uplink_bytes / seconds, _delivered(devices) / seconds)
        observer.progress(_progress(site, devices, seconds, uplink_bytes, *rates, cache))
        return Summary(plan, site.artifact, reports, uplink_bytes, seconds, cache)
    finally:
        await asyncio.gather(*(device.close() for device in devices))


async def _power_on(devices: list[SimulatedDevice]) -> None:
    async def one(device: SimulatedDevice) -> None:
        try:
            async with asyncio.timeout(POWER_ON_DEADLINE):
                await device.start()
        except (TimeoutError, OSError, ValueError) as error:
            device.report.result = "error"
            device.report.reason = f"not let in within {POWER_ON_DEADLINE:.0f} s {error}".strip()

    await asyncio.gather(*(one(device) for device in devices))


async def _finish_all(devices: list[SimulatedDevice], deadline: float) -> None:
    await asyncio.gather(*(_finish(device, deadline) for device in devices))


async def _finish(device: SimulatedDevice, deadline: float) -> None:
    try:
        async with asyncio.timeout(deadline):
            await device.install(await device.wait_for_update())
    except (TimeoutError, OSError, ValueError, LookupError) as error:
        device.report.result = "error"
        device.report.reason = str(error) or f"not finished within {deadline:.0f} s"


async def _watch(
    site: Site,
    devices: list[SimulatedDevice],
    observer: Observer,
    started: float,
    before: int,
) -> None:
    """Tells the observer until it is cancelled; `GatewayFailed` when the gateway ends."""
    cache: CacheFigures | None = None
    scraped = 0.0
    rates = _Rates(lambda: (site.cloud.uplink.bytes_passed - before, _delivered(devices)))
    while True:
        if not site.gateway.running:
            raise GatewayFailed(site.gateway.ending("the gateway ended during the rollout"))
        now = time.monotonic()
        if now - scraped >= SCRAPED_EVERY:
            scraped, cache = now, await scrape(site.gateway.addresses["metrics"])
        uplink_bytes, uplink_rate, local_rate = rates.sample(now)
        observer.progress(
            _progress(site, devices, now - started, uplink_bytes, uplink_rate, local_rate, cache)
        )
        await asyncio.sleep(OBSERVED_EVERY)


class _Rates:
    """Uplink and local throughput over the last second."""

    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read
        self._samples: list[tuple[float, int, int]] = []

    def sample(self, now: float) -> tuple[int, float, float]:
        """Uplink bytes so far, uplink rate, local rate."""
        uplink, local = self._read()
        self._samples.append((now, uplink, local))
        while len(self._samples) > 2 and now - self._samples[0][0] > 1.0:
            self._samples.pop(0)
        first = self._samples[0]
        span = now - first[0]
        if span <= 0:
            return uplink, 0.0, 0.0
        return uplink, (uplink - first[1]) / span, (local - first[2]) / span


def _delivered(devices: list[SimulatedDevice]) -> int:
    return sum(device.download.received for device in devices)


def _progress(
    site: Site,
    devices: list[SimulatedDevice],
    seconds: float,
    uplink_bytes: int,
    uplink_rate: float,
    local_rate: float,
    cache: CacheFigures | None,
) -> Progress:
    shown = tuple(
        DeviceProgress(
            device.settings.identity["mac"],
            device.state,
            device.download.received,
            device.download.total,
        )
        for device in devices
    )
    delivered = _delivered(devices)
    return Progress(seconds, shown, uplink_bytes, delivered, uplink_rate, local_rate, cache)
