"""The download of one artifact as the real clients do it: a connection of its own, no token,
resumed by Range on the same link after a cut, given up after so many failures.

The first answer must be a 200 with a plain length; a resumed one a 206 whose range starts at or
before the byte asked for and names the same total. Anything else counts as a failure.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mender_gateway.demo.client import AnswerHead, Connection, Target, WireError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
FIRST_ATTEMPTS = 4
RESUMES = 3
REDIRECTS = 10
HEADER_TIMEOUT = 900.0
"""Seconds; the real client waits for hours."""


@dataclass(frozen=True, slots=True)
class DownloadRules:
    """`wait` seconds lie between two attempts: a minute and more in the real client."""

    wait: float = 60.0
    closed_ranges: bool = False
    """Clients 4.x and later ask for `bytes=N-END`, older ones for `bytes=N-`."""
    silence: float = 600.0
    """Seconds without a byte after which the device would be called stuck."""


@dataclass(slots=True)
class Download:
    """How far it got; `digest` covers exactly the bytes from 0 to `received`."""

    received: int = 0
    total: int | None = None
    attempts: int = 0
    resumed: int = 0
    errors: list[str] = field(default_factory=list)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


class GaveUp(Exception):
    """The artifact was not downloaded; the text says why."""


async def fetch(
    uri: str,
    tls: ssl.SSLContext | None,
    rules: DownloadRules,
    download: Download,
    first_bytes: Callable[[], Awaitable[None]],
    again: Callable[[], Awaitable[None]],
) -> None:
    """Downloads `uri` into `download`; `GaveUp` when the client would give up.

    `first_bytes` is awaited once, after the first bytes; `again` before every attempt to start
    over (not before a resume), where the real client reports its status once more.
    """
    failures = 0
    told = False

    async def begun() -> None:
        nonlocal told
        if not told:
            told = True
            await first_bytes()

    while True:
        started = download.total is not None
        if failures and not started:
            await again()
        try:
            await _attempt(uri, tls, rules, download, begun)
            return
        except (WireError, OSError, TimeoutError) as error:
            failures += 1
            download.errors.append(f"at byte {download.received}: {error}")
        if download.total is not None and not started:
            failures = 0
        if failures >= (RESUMES if download.total is not None else FIRST_ATTEMPTS):
            raise GaveUp(download.errors[-1])
        await asyncio.sleep(rules.wait)


async def _attempt(
    uri: str,
    tls: ssl.SSLContext | None,
    rules: DownloadRules,
    download: Download,
    begun: Callable[[], Awaitable[None]],
) -> None:
    download.attempts += 1
    resuming = download.total is not None
    if resuming:
        last = f"{(download.total or 0) - 1}" if rules.closed_ranges else ""
        headers = [("Range", f"bytes={download.received}-{last}")]
    else:
        headers = [("Accept-Encoding", "gzip")]
    connection, head = await _get(uri, tls, headers)
    async with connection:
        skip = _resumed_at(head, download) if resuming else _first_length(head, download)
        async for piece in connection.chunks(rules.silence):
            fresh = piece[skip:]
            skip -= len(piece) - len(fresh)
            download.digest.update(fresh)
            download.received += len(fresh)
            if fresh:
                await begun()
    if download.received != download.total:
        raise WireError(f"{download.received} bytes came instead of {download.total}")


async def _get(
    uri: str, tls: ssl.SSLContext | None, headers: list[tuple[str, str]]
) -> tuple[Connection, AnswerHead]:
    for _ in range(REDIRECTS):
        target = Target.of(uri)
        connection = await Connection.open(target, tls)
        try:
            await connection.send("GET", target, headers)
            head = await connection.head(HEADER_TIMEOUT)
        except BaseException:
            await connection.close()
            raise
        location = head.header("location")
        if head.status not in (301, 302, 303, 307, 308) or location is None:
            return connection, head
        await connection.close()
        uri = location
    raise WireError(f"more than {REDIRECTS} redirects")


def _first_length(head: AnswerHead, download: Download) -> int:
    """Notes the total of a first answer and returns 0, the bytes to skip."""
    if head.status != 200:
        raise WireError(f"status {head.status} for the artifact")
    if head.header("content-encoding") is not None or head.length is None:
        raise WireError("will not continue with unknown image size")
    download.total = head.length
    return 0


def _resumed_at(head: AnswerHead, download: Download) -> int:
    """The bytes to skip at the start of a resumed answer."""
    match = _CONTENT_RANGE.fullmatch(head.header("content-range") or "")
    if head.status != 206 or match is None:
        given = head.header("content-range")
        raise WireError(f"status {head.status}, Content-Range {given!r} for a resume")
    start, _, total = (int(number) for number in match.groups())
    if total != download.total:
        raise WireError(f"the size changed from {download.total} to {total}")
    if start > download.received:
        raise WireError(f"the resume starts at {start} instead of {download.received}")
    download.resumed += 1
    return download.received - start
