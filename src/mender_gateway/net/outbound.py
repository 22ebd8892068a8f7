"""Connections outwards: name look-up, TCP, an HTTP proxy where one is configured, TLS.

Look-ups for one host are shared, kept for half a minute, and when a look-up fails the last answer
serves on: an uplink that flickers takes its DNS with it. The address that worked last is tried
first. `https` targets go through a proxy by CONNECT (RFC 9110 9.3.6); `http` targets are asked for
in absolute form (RFC 9112 3.2.2), since proxies commonly allow CONNECT to port 443 alone.
"""

import asyncio
import base64
import errno
import ipaddress
import os
import socket
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mender_gateway.net.listener import keep_alive
from mender_gateway.net.poller import Poller
from mender_gateway.net.stream import Stream

_KEEP_ADDRESSES = 30.0
"""Seconds for which an answer of the resolver is used without asking again."""
_KNOWN_HOSTS = 256
_PROXY_HEAD = 16 * 1024

type_of_address = tuple[int, tuple[str, int]]
"""Address family and socket address."""


class ProxyRefused(ConnectionError):
    """The outbound proxy did not open a tunnel."""


@dataclass(frozen=True, slots=True)
class OutboundProxy:
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization or empty."""

    host: str
    port: int
    authorization: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, url: str) -> "OutboundProxy":
        """From `http://[user:password@]host[:port]`, the scheme optional; raises ValueError."""
        if "://" not in url:
            url = "http://" + url
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("only http://[user:password@]host[:port] proxies are supported")
        authorization = b""
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(user.encode())
        return cls(parts.hostname, parts.port or 80, authorization)


def bypasses_proxy(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY exempts `host`: entries split on commas or blanks; `example.com`,
    `.example.com` and `*.example.com` match subdomains (the first itself too), `*` everything,
    IPs and CIDR networks match literal addresses; `:port` narrows an entry. Loopback never goes
    through a proxy (Go's net/http does the same).
    """
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in no_proxy.replace(",", " ").split():
        if entry == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass
        name, colon, number = entry.rpartition(":")
        if colon and number.isdigit() and (":" not in name or name.endswith("]")):
            if int(number) != port:
                continue
        else:
            name = entry
        name = name.strip("[]").lower().rstrip(".")
        if name.startswith("*."):
            name = name[1:]
        if name.startswith("."):
            if host.endswith(name):
                return True
        elif name and (host == name or (address is None and host.endswith("." + name))):
            return True
    return False


@dataclass(slots=True)
class Connection:
    """A fresh connection; through a proxy in absolute form, `prefix` goes before each target and
    `authorization` into Proxy-Authorization.
    """

    stream: Stream
    prefix: bytes = b""
    authorization: bytes = b""


@dataclass(slots=True)
class _Known:
    addresses: list[type_of_address]
    until: float


class Connector:
    """Opens connections; knows the proxies and remembers addresses. One per event loop."""

    def __init__(
        self,
        poller: Poller,
        http_proxy: OutboundProxy | None = None,
        https_proxy: OutboundProxy | None = None,
        no_proxy: str = "",
    ) -> None:
        self._loop = poller.loop
        self._poller = poller
        self._http_proxy = http_proxy
        self._https_proxy = https_proxy
        self._no_proxy = no_proxy
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()
        self._lookups: dict[tuple[str, int], asyncio.Task[list[type_of_address]]] = {}

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, timeout: float
    ) -> Connection:
        """Open a connection to `host`, with TLS when there is a `context`.

        `timeout` seconds bound everything together. Raises TimeoutError, ssl.SSLError (with the
        reason a certificate was refused), ProxyRefused or another OSError.
        """
        async with asyncio.timeout(timeout):
            proxy = self._http_proxy if context is None else self._https_proxy
            if proxy is not None and bypasses_proxy(self._no_proxy, host, port):
                proxy = None
            if proxy is None:
                stream = await self._dial(host, port, timeout)
            else:
                stream = await self._dial(proxy.host, proxy.port, timeout)
                authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                if context is None:
                    return Connection(stream, b"http://" + authority.encode(), proxy.authorization)
                await self._tunnel(stream, authority.encode(), proxy.authorization, timeout)
            if context is not None:
                stream = await self._secure(stream, host, context, timeout)
            return Connection(stream)

    async def _addresses(self, host: str, port: int) -> list[type_of_address]:
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known.until > self._loop.time():
            return known.addresses
        task = self._lookups.get(key)
        if task is None:
            task = self._loop.create_task(self._look_up(host, port))
            self._lookups[key] = task
            task.add_done_callback(lambda done: self._looked_up(key, done))
        if known is None:
            return await asyncio.shield(task)
        done, _ = await asyncio.wait([task], timeout=2.0)
        if done and task.exception() is None:
            return task.result()
        return known.addresses

    def _looked_up(self, key: tuple[str, int], task: asyncio.Task[list[type_of_address]]) -> None:
        del self._lookups[key]
        if not task.cancelled():
            task.exception()  # whoever waits raises it; with nobody waiting it is of no interest

    async def _look_up(self, host: str, port: int) -> list[type_of_address]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses: list[type_of_address] = [(f, a[:2]) for f, _, _, _, a in found]  # type: ignore[misc]
        if not addresses:
            raise OSError(errno.EHOSTUNREACH, f"{host} has no address")
        self._known[(host, port)] = _Known(addresses, self._loop.time() + _KEEP_ADDRESSES)
        while len(self._known) > _KNOWN_HOSTS:
            self._known.popitem(last=False)
        return addresses

    async def _dial(self, host: str, port: int, timeout: float) -> Stream:
        addresses = await self._addresses(host, port)
        share = max(2.0, timeout / (len(addresses) + 1))
        failure: OSError | None = None
        for family, address in list(addresses):
            try:
                async with asyncio.timeout(share if address != addresses[-1][1] else timeout):
                    stream = await self._dial_one(family, address)
            except OSError as error:
                failure = error
                continue
            if address != addresses[0][1]:
                addresses.remove((family, address))
                addresses.insert(0, (family, address))
            return stream
        raise failure or OSError(errno.EHOSTUNREACH, f"{host} has no address")

    async def _dial_one(self, family: int, address: tuple[str, int]) -> Stream:
        stream = Stream(socket.socket(family, socket.SOCK_STREAM), self._poller, address[0])
        sock = stream.sock
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
            result = sock.connect_ex(address)
            if result == errno.EINPROGRESS:
                await stream.wait_writable(3600.0)
                result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if result:
                raise OSError(result, f"{os.strerror(result)} ({address[0]}:{address[1]})")
            return stream
        except BaseException:
            stream.abort()
            raise

    async def _tunnel(
        self, stream: Stream, authority: bytes, authorization: bytes, timeout: float
    ) -> None:
        head = b"CONNECT " + authority + b" HTTP/1.1\r\nHost: " + authority + b"\r\n"
        if authorization:
            head += b"Proxy-Authorization: " + authorization + b"\r\n"
        try:
            await stream.send(head + b"\r\n", timeout)
            answer = b""
            while b"\r\n\r\n" not in answer:
                # Byte by byte: what follows the head belongs to TLS, and there is nothing yet.
                data = await stream.receive(timeout, 1)
                if not data or len(answer) > _PROXY_HEAD:
                    raise ProxyRefused("outbound proxy ended the connection")
                answer += data
            status = answer.split(b"\r\n", 1)[0].decode("latin-1")
            if status.split(" ")[1:2] != ["200"]:
                raise ProxyRefused(f"outbound proxy answered: {status}")
        except BaseException:
            stream.abort()
            raise

    async def _secure(
        self, plain: Stream, host: str, context: ssl.SSLContext, timeout: float
    ) -> Stream:
        plain.detach()
        try:
            sock = context.wrap_socket(
                plain.sock,
                server_hostname=host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
        except BaseException:
            plain.abort()
            raise
        stream = Stream(sock, self._poller, plain.peer)
        try:
            await stream.handshake(timeout)
        except BaseException:
            stream.abort()
            raise
        return stream
