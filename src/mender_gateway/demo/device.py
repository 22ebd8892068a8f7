"""A simulated device: the real client's requests, in its order and shape, over real sockets.

It authenticates, reports its inventory, polls (v2, then v1), downloads, and reports its way to
`success`; one keep-alive connection carries the API calls, downloads have their own. What goes
wrong is retried as the real client does, with intervals that a test may shorten, and recorded.
"""

import asyncio
import gzip
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from mender_gateway.demo.client import AnswerHead, Connection, Target, WireError
from mender_gateway.demo.download import Download, DownloadRules, GaveUp, fetch
from mender_gateway.demo.keys import KeyKind, PrivateKey, new_key, public_pem, signature

AUTH = "/api/devices/v1/authentication/auth_requests"
INVENTORY = "/api/devices/v1/inventory/device/attributes"
NEXT_V2 = "/api/devices/v2/deployments/device/deployments/next"
DEPLOYMENTS = "/api/devices/v1/deployments/device/deployments"
ATTEMPTS = 4
"""Of reports that matter: the pre-commit one, success, failure, log."""


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """One device. `server` is what it is configured with: the gateway's URL."""

    server: str
    identity: dict[str, str]
    device_type: str = "demo-board"
    artifact_name: str = "release-0"
    key: KeyKind = "ec"
    tenant_token: str = ""
    tls: ssl.SSLContext | None = None
    retry: float = 5.0
    """Seconds between retries (RetryPollIntervalSeconds)."""
    poll: float = 5.0
    """Seconds between polls (UpdatePollIntervalSeconds)."""
    download: DownloadRules = field(default_factory=DownloadRules)
    expected_sha256: str | None = None
    """Of the artifact; another digest is a failure, as a bad payload checksum is."""
    fail_install: bool = False
    """The update module fails in ArtifactInstall."""
    api_timeout: float = 120.0
    inventory: dict[str, Any] = field(default_factory=dict)


Result = Literal["waiting", "success", "failure", "aborted", "error"]


@dataclass(slots=True)
class DeviceReport:
    """What came of a device's update."""

    identity: dict[str, str]
    result: Result = "waiting"
    reason: str = ""
    artifact: str = ""
    size: int = 0
    sha256: str = ""
    seconds: float = 0.0
    """From the poll that brought the update to its last report."""
    attempts: int = 0
    resumed: int = 0
    statuses: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class NotAccepted(Exception):
    """The server does not let this device in (yet)."""


class Aborted(Exception):
    """The server answered a status with 409: the deployment is over."""


class Failed(Exception):
    """The update cannot be finished; it is rolled back and reported as failure."""


class SimulatedDevice:
    """Call `update` for a whole rollout, or the single steps. `close` it afterwards."""

    def __init__(self, settings: DeviceSettings, key: PrivateKey | None = None) -> None:
        self.settings = settings
        self.key = key or new_key(settings.key)
        self.artifact_name = settings.artifact_name
        self.token: str | None = None
        self.state = "starting"
        self.download = Download()
        self.report = DeviceReport(settings.identity)
        self._connection: Connection | None = None

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def __aenter__(self) -> "SimulatedDevice":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def update(self, deadline: float) -> DeviceReport:
        """From power-on to the end of one deployment, within `deadline` seconds. Never raises."""
        try:
            async with asyncio.timeout(deadline):
                await self.start()
                deployment = await self.wait_for_update()
                await self.install(deployment)
        except TimeoutError:
            self._ended("error", f"not finished within {deadline} s ({self.state})")
        except (WireError, OSError, ValueError) as error:
            self._ended("error", str(error) or type(error).__name__)
        return self.report

    async def start(self) -> None:
        """Authenticates, as often as it takes, and sends the inventory."""
        self.state = "authenticating"
        while True:
            try:
                await self.authenticate()
                break
            except (NotAccepted, WireError, OSError) as error:
                self._note("authentication", error)
                await asyncio.sleep(self.settings.retry)
        await self.send_inventory()

    async def authenticate(self) -> None:
        """One auth request; `NotAccepted` for any answer but 200."""
        settings = self.settings
        value = {
            "id_data": json.dumps(settings.identity, separators=(",", ":")),
            "tenant_token": settings.tenant_token,
            "pubkey": public_pem(self.key),
        }
        body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        headers = [
            ("Authorization", f"Bearer {settings.tenant_token}"),
            ("Content-Type", "application/json"),
            ("X-Men-Signature", signature(self.key, body)),
            ("Accept-Encoding", "gzip"),
        ]
        head, answer = await self._request("POST", AUTH, headers, body, chunked=False)
        if head.status != 200:
            self.token = None
            raise NotAccepted(f"status {head.status}")
        self.token = answer.decode()
        if self.token.count(".") != 2 or self.token != self.token.strip():
            raise WireError("the token is no bare JWT")

    async def send_inventory(self) -> None:
        """PUT, or PATCH where PUT is unknown; tried a second time at once, then left."""
        attributes = {
            "device_type": self.settings.device_type,
            "artifact_name": self.artifact_name,
            "mender_client_version": "3.4.0",
        } | self.settings.inventory
        value = [{"name": name, "value": value} for name, value in attributes.items()]
        for _ in range(2):
            try:
                status = (await self.call("PUT", INVENTORY, value))[0].status
                if status == 405:
                    status = (await self.call("PATCH", INVENTORY, value))[0].status
            except (WireError, OSError) as error:
                self._note("inventory", error)
                continue
            if status == 200:
                return
            self._note("inventory", f"status {status}")

    async def wait_for_update(self) -> dict[str, Any]:
        """Polls until there is something to do."""
        self.state = "polling"
        while True:
            try:
                deployment = await self.poll()
            except (WireError, OSError) as error:
                self._note("poll", error)
                deployment = None
            if deployment is not None:
                return deployment
            await asyncio.sleep(self.settings.poll)

    async def poll(self) -> dict[str, Any] | None:
        """One poll: v2, on 404 v1 by POST, on 404 v1 by GET; None when there is no update."""
        provides = {
            "artifact_name": self.artifact_name,
            "device_type": self.settings.device_type,
        }
        wanted = {"device_provides": provides, "update_control_map": True}
        head, body = await self.call("POST", NEXT_V2, wanted)
        if head.status == 404:
            head, body = await self.call("POST", f"{DEPLOYMENTS}/next", provides)
        if head.status == 404:
            query = "&".join(f"{name}={value}" for name, value in provides.items())
            head, body = await self.call("GET", f"{DEPLOYMENTS}/next?{query}")
        if head.status == 204:
            return None
        if head.status != 200:
            raise WireError(f"status {head.status} for the poll")
        value = json.loads(body)
        if not isinstance(value, dict):
            raise WireError("the poll's answer is no object")
        return value

    async def install(self, deployment: dict[str, Any]) -> DeviceReport:
        """Everything from the first status to the last, and what follows."""
        started = time.monotonic()
        identifier = str(deployment["id"])
        self.report.artifact = str(deployment["artifact"]["artifact_name"])
        try:
            await self._install(identifier, deployment["artifact"])
            self._ended("success")
        except Aborted:
            self._ended("aborted", "the server ended the deployment")
            await self._last_report(identifier, "failure")
        except (Failed, GaveUp) as failure:
            self._ended("failure", str(failure))
            await self._last_report(identifier, "failure")
            await self._send_log(identifier, str(failure))
        self.report.seconds = time.monotonic() - started
        await self.send_inventory()
        return self.report

    async def _install(self, identifier: str, artifact: dict[str, Any]) -> None:
        settings = self.settings

        async def downloading() -> None:
            await self._try_status(identifier, "downloading")

        self.state = "downloading"
        await downloading()
        self.download = Download()
        try:
            uri = str(artifact["source"]["uri"])
            rules = settings.download
            await fetch(uri, settings.tls, rules, self.download, downloading, downloading)
        finally:
            report = self.report
            report.size, report.sha256 = self.download.received, self.download.digest.hexdigest()
            report.attempts, report.resumed = self.download.attempts, self.download.resumed
            report.errors += self.download.errors
        if settings.expected_sha256 not in (None, self.report.sha256):
            raise Failed(f"invalid checksum {self.report.sha256}")
        await downloading()
        self.state = "installing"
        await self._try_status(identifier, "installing")
        if settings.fail_install:
            raise Failed("the update module failed in ArtifactInstall")
        await self._before_commit(identifier)
        self.artifact_name = str(artifact["artifact_name"])
        await self._last_report(identifier, "success")

    async def _before_commit(self, identifier: str) -> None:
        """A fresh token and a report that must succeed; otherwise the update is rolled back."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self.settings.retry)
            try:
                await self.authenticate()
                await self._status(identifier, "installing")
                return
            except (NotAccepted, WireError, OSError) as error:
                self._note("report before commit", error)
        raise Failed("the server could not be told before the commit")

    async def _last_report(self, identifier: str, status: str) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self.settings.retry)
            try:
                await self._status(identifier, status)
                return
            except Aborted:
                return
            except (WireError, OSError) as error:
                self._note(f"report of {status}", error)
        self.report.errors.append(f"the server never heard of the {status}")

    async def _try_status(self, identifier: str, status: str) -> None:
        """A report whose loss does not matter; `Aborted` does."""
        try:
            await self._status(identifier, status)
        except (WireError, OSError) as error:
            self._note(f"report of {status}", error)

    async def _status(self, identifier: str, status: str) -> None:
        path = f"{DEPLOYMENTS}/{identifier}/status"
        head, _ = await self.call("PUT", path, {"status": status})
        if head.status == 409:
            raise Aborted
        if head.status != 204:
            raise WireError(f"status {head.status} for the report of {status}")
        self.report.statuses.append(status)

    async def _send_log(self, identifier: str, text: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = {"level": "error", "message": text, "timestamp": when}
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self.settings.retry)
            path = f"{DEPLOYMENTS}/{identifier}/log"
            try:
                head, _ = await self.call("PUT", path, {"messages": [message]})
            except (WireError, OSError) as error:
                self._note("log", error)
                continue
            if head.status == 204:
                return
            self._note("log", f"status {head.status}")

    async def call(
        self, method: str, path: str, value: object | None = None
    ) -> tuple[AnswerHead, bytes]:
        """An API call with the token; after a 401 once more with a fresh one."""
        body = None if value is None else json.dumps(value, separators=(",", ":")).encode()
        for last in (False, True):
            headers = [("Accept-Encoding", "gzip"), ("Authorization", f"Bearer {self.token}")]
            if body is not None:
                headers.append(("Content-Type", "application/json"))
            head, answer = await self._request(method, path, headers, body, chunked=True)
            if head.status != 401 or last:
                break
            try:
                await self.authenticate()
            except NotAccepted as error:
                self._note("re-authentication", error)
                break
        return head, answer

    async def _request(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes | None,
        chunked: bool,
    ) -> tuple[AnswerHead, bytes]:
        """One request on the API connection, which is opened anew where it was closed."""
        target = Target.of(self.settings.server.rstrip("/") + path)
        connection = self._connection
        if connection is None or not connection.reusable:
            await self.close()
            connection = await Connection.open(target, self.settings.tls)
            self._connection = connection
        try:
            await connection.send(method, target, headers, body, chunked)
            head = await connection.head(self.settings.api_timeout, method)
            answer = await connection.read(self.settings.api_timeout)
        except BaseException:
            await self.close()
            raise
        return head, _plain(head, answer)

    def _note(self, what: str, error: object) -> None:
        self.report.errors.append(f"{what}: {error}")

    def _ended(self, result: Result, reason: str = "") -> None:
        self.state = result
        self.report.result, self.report.reason = result, reason


def _plain(head: AnswerHead, body: bytes) -> bytes:
    """The body without its gzip coding, the only one that was offered."""
    coding = head.header("content-encoding")
    if coding is None:
        return body
    if coding != "gzip":
        raise WireError(f"Content-Encoding {coding} was never offered")
    return gzip.decompress(body)
