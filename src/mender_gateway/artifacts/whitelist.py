"""Which hosts the gateway fetches artifacts from: DomainWhitelist as a question with one answer.

An entry covers its host and all subdomains at label boundaries. IP addresses have no subdomains
and are compared whole. A host is looked up label by label, so the cost does not depend on the
number of entries.
"""

import re
import socket
from collections.abc import Sequence
from typing import Self

_ENTRY = re.compile(
    r"(\*\.|\.)?(?:\[([0-9A-Fa-f:.]++)\]|([A-Za-z0-9_][A-Za-z0-9._-]*+))(?::([0-9]{1,5}))?",
    re.ASCII,
)


class Whitelist:
    """Immutable; made once per configuration."""

    __slots__ = ("_ports",)

    def __init__(self, ports: dict[str, frozenset[int]]) -> None:
        """`ports` by host; an empty set stands for every port."""
        self._ports = dict(ports)

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read ``host``, ``host:port``, ``.host``, ``*.host``, an IPv4 or an IPv6 address.

        An IPv6 address with a port needs brackets. Raises ValueError naming the bad entry.
        """
        ports: dict[str, frozenset[int]] = {}
        for entry in entries:
            host, port = _read(entry)
            known = ports.get(host)
            if port is None or known == frozenset():
                ports[host] = frozenset()
            else:
                ports[host] = (known or frozenset()) | {port}
        return cls(ports)

    def allows(self, host: str, port: int) -> bool:
        """Whether an entry covers `host` (lower case, no trailing dot, no brackets) and `port`."""
        ports = self._ports
        known = ports.get(host)
        if known is not None and (not known or port in known):
            return True
        if is_address(host):
            return False
        dot = host.find(".")
        while dot != -1:
            known = ports.get(host[dot + 1 :])
            if known is not None and (not known or port in known):
                return True
            dot = host.find(".", dot + 1)
        return False


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, or a number that a resolver takes for one (``127.1``)."""
    last = host[host.rfind(".") + 1 :]
    return ":" in host or (last[:1].isdigit() and (last.isdigit() or last.startswith("0x")))


def _read(entry: str) -> tuple[str, int | None]:
    text = entry.strip()
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ValueError(f"{entry!r} is not a host or host:port{_hint(text)}")
    wildcard, address, name, digits = match.groups()
    port = int(digits) if digits else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{entry!r}: there is no port {digits}")
    if address is not None:
        family, host = socket.AF_INET6, address
    else:
        family, host = socket.AF_INET, name.lower().removesuffix(".")
        if not host or ".." in host or len(host) > 253:
            raise ValueError(f"{entry!r} is not a host name")
    if address is not None or is_address(host):
        if wildcard:
            raise ValueError(f"{entry!r}: an address has no subdomains")
        try:
            host = socket.inet_ntop(family, socket.inet_pton(family, host))
        except OSError:
            raise ValueError(f"{entry!r} is not an IP address") from None
    return host, port


def _hint(text: str) -> str:
    if "://" in text:
        return ": leave the scheme and the path away"
    if "/" in text:
        return ": leave the path away"
    if not text.isascii():
        return ": write it in its ASCII form (xn--…)"
    return ""
