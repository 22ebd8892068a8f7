"""Reading single settings: pure functions from text to value, and back for display.

Each function either returns the value or raises `ValueError` whose text continues a sentence that
began with the key and the value (`HTTPS.Listen: "x" is no …; write …`): it says what is wrong and
what to write instead, and never repeats the value, which may be a secret.
"""

import base64
import binascii
import ipaddress
import json
import re
from decimal import Decimal

from mender_gateway.config.settings import Address, Endpoint

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LARGEST_INTEGER = 2**63 - 1
_DURATION_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_SIZE_UNITS = {"": 1, "b": 1}
_SIZE_UNITS |= {f"{unit}ib": 1024**power for power, unit in enumerate("kmgt", 1)}
_SIZE_UNITS |= {f"{unit}b": 1000**power for power, unit in enumerate("kmgt", 1)}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*?)(?:/s)?")
_RATE_UNITS = {f"{prefix}bit": 1000**power / 8 for power, prefix in enumerate(("", *"kmg"))}
_DAYS = re.compile(r"([0-9]+(?:\.[0-9]+)?)d(.*)")
_DAY = 86_400
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_SERVICES = {"http": 80, "https": 443}
_LONGEST = 4096
TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")


def parse_duration(text: str) -> float:
    """Seconds from Go's duration syntax (package time, ParseDuration), negative ones refused."""
    message = 'is no duration; write for example "1h30m", "90s" or "500ms"'
    body = text.removeprefix("+")
    if body == "0":
        return 0.0
    if body.startswith("-"):
        raise ValueError('is negative; write a duration such as "1h30m" or "90s"')
    total, position = Decimal(0), 0
    if not body or len(body) > 100:
        raise ValueError(message)
    while position < len(body):
        term = _DURATION_TERM.match(body, position)
        if term is None:
            raise ValueError(message)
        total += Decimal(term[1]) * _NANOSECONDS[term[2]]
        position = term.end()
    if total > _LARGEST_INTEGER:
        raise ValueError("is longer than 292 years; write a shorter duration")
    return float(int(total) / Decimal(10**9))


def format_duration(seconds: float) -> str:
    """The shortest usual form in Go's syntax, to the nanosecond: 5400.0 is `1h30m`."""
    rest = round(Decimal(seconds) * 10**9)
    if rest == 0:
        return "0s"
    if rest < 10**9:
        unit = next(unit for unit in ("ms", "us", "ns") if rest >= _NANOSECONDS[unit])
        return _plain(Decimal(rest) / _NANOSECONDS[unit]) + unit
    hours, rest = divmod(rest, _NANOSECONDS["h"])
    minutes, rest = divmod(rest, _NANOSECONDS["m"])
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    parts.append(_plain(Decimal(rest) / 10**9) + "s" if rest else "")
    return "".join(parts)


def parse_period(text: str) -> float:
    """Seconds from `7d`, `1d12h`, or whatever `parse_duration` takes."""
    match = _DAYS.fullmatch(text)
    if match is None or len(text) > 100:
        return parse_duration(text)
    days = float(match[1]) * _DAY
    if days > 100 * 366 * _DAY:
        raise ValueError("is longer than a century; write a shorter period")
    return days + (parse_duration(match[2]) if match[2] else 0.0)


def format_period(seconds: float) -> str:
    """The shortest usual form: 604800.0 is `7d`, 5400.0 is `1h30m`."""
    days, rest = divmod(seconds, _DAY)
    if not days:
        return format_duration(seconds)
    return f"{days:.0f}d{format_duration(rest) if rest else ''}"


def parse_rate(text: str) -> int:
    """Bytes per second from `1250000`, `10mbit`, `2MB/s` or `500KiB`, whatever the case."""
    match = _RATE.fullmatch(text) if len(text) <= 100 else None
    unit = match[2].lower() if match else ""
    factor = _RATE_UNITS.get(unit) or _SIZE_UNITS.get(unit)
    if match is None or factor is None:
        raise ValueError(
            'is no rate; write bytes per second, or for example "10mbit", "500kbit" or "2MB"'
        )
    rate = Decimal(match[1]) * Decimal(factor)
    if not 1024 <= rate <= _LARGEST_INTEGER:
        raise ValueError("is out of bounds; write at least 1024 bytes per second, or 9kbit")
    return int(rate)


def format_rate(rate: int) -> str:
    """The exact rate: 1250000 is `10mbit`; bytes per second where no bit unit divides it."""
    for power, prefix in ((3, "g"), (2, "m"), (1, "k")):
        number, rest = divmod(rate * 8, 1000**power)
        if number and not rest:
            return f"{number}{prefix}bit"
    return str(rate)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_size(text: str) -> int:
    """Bytes from `65536`, `64KiB` (1024) or `10MB` (1000), whatever the case."""
    match = _SIZE.fullmatch(text)
    factor = _SIZE_UNITS.get(match[2].lower()) if match and len(text) <= 100 else None
    if match is None or factor is None:
        raise ValueError('is no size; write bytes, or for example "64KiB", "10MB" or "2GB"')
    size = Decimal(match[1]) * factor
    if size > _LARGEST_INTEGER:
        raise ValueError("is more than any disk holds; write a smaller size")
    return int(size)


def format_size(size: int) -> str:
    """The exact size with the largest unit that divides it: 65536 is `64KiB`."""
    for base, infix in ((1024, "i"), (1000, "")):
        for power, unit in reversed(list(enumerate("kMGT" if base == 1000 else "KMGT", 1))):
            if size and size % base**power == 0:
                return f"{size // base**power}{unit}{infix}B"
    return str(size)


def parse_boolean(text: str) -> bool:
    """A boolean of the environment: true, false, 1, 0, t or f in any case."""
    lower = text.strip().lower()
    if lower in ("true", "t", "1"):
        return True
    if lower in ("false", "f", "0"):
        return False
    raise ValueError('is no boolean; write "true" or "false"')


def parse_address(text: str) -> Address:
    """A listening address in Go's syntax (package net, Listen), or a port alone.

    `:443` is every interface; port 0 lets the system choose one.
    """
    message = 'is no listening address; write for example ":443", "127.0.0.1:8080" or "[::1]:8443"'
    host, separator, port_text = text.rpartition(":")
    if not separator and not port_text.isdecimal():
        raise ValueError(message)
    port = _SERVICES.get(port_text.lower()) if separator else None
    if port is None:
        port = _port(port_text, message)
    return Address(_host(host, message, empty_is_any=True), port)


def parse_endpoint(text: str) -> Endpoint:
    """Scheme, host and port of an http or https URL that has nothing else but perhaps a `/`."""
    scheme, authority, rest = _split_url(text)
    if "@" in authority:
        raise ValueError("holds a user name or password; write the URL without them")
    if rest not in ("", "/"):
        part = {"?": "a query", "#": "a fragment"}.get(rest.lstrip("/")[:1], "a path")
        raise ValueError(f'has {part}; write only scheme, host and port: "https://host:port"')
    host, port = _authority(authority, scheme)
    return Endpoint(scheme, host, port)


def parse_proxy(text: str) -> str:
    """Check an outbound proxy, `http://user:password@host:port` or `host:port`; the text itself."""
    scheme, authority, rest = _split_url(text if "://" in text else f"http://{text}")
    if scheme == "https":
        raise ValueError("is an https proxy, which is not supported; write an http:// proxy")
    if rest not in ("", "/"):
        raise ValueError(
            'is no proxy; write "http://user:password@host:port" with / ? # @ of the password '
            "as %2F %3F %23 %40"
        )
    _authority(authority.rpartition("@")[2], scheme)
    return text


def _split_url(text: str) -> tuple[str, str, str]:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has blanks or characters beyond ASCII; write a plain URL (punycode)")
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters; write a shorter URL")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in ("http", "https"):
        raise ValueError('does not begin with http:// or https://; write "https://host"')
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    return scheme, rest[:end], rest[end:]


def _authority(text: str, scheme: str) -> tuple[str, int]:
    message = 'names no valid host and port; write for example "https://gateway.example.com:8443"'
    host, port = _split_port(text, message)
    default = 443 if scheme == "https" else 80
    number = default if port is None else _port(port, message)
    if number == 0:
        raise ValueError("has port 0; write a port from 1 to 65535")
    return _host(host, message), number


def _split_port(text: str, message: str) -> tuple[str, str | None]:
    """`host`, `host:port`, `[v6]` or `[v6]:port` into host (brackets kept) and port."""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(message)
        return host + bracket, rest[1:] if rest else None
    host, separator, port = text.partition(":")
    return host, port if separator else None


def _port(text: str, message: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5:
        raise ValueError(message)
    if int(text) > 65535:
        raise ValueError("has a port above 65535; write a port from 0 to 65535")
    return int(text)


def _host(text: str, message: str, *, empty_is_any: bool = False) -> str:
    """A host name or IP address, lower case, without brackets and trailing dot."""
    if not text and empty_is_any:
        return ""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(message) from None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(message)
    if labels[-1].isdecimal():  # RFC 3986 3.2.2: what ends in a number must be an IPv4 address
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise ValueError(message) from None
    return name


def parse_whitelist_entry(text: str) -> str:
    """A storage host as `host` or `host:port`: lower case, no leading `.` or `*.`, no final dot.

    IPv6 addresses keep their brackets. An entry covers the host and everything below it.
    """
    message = 'is no host; write for example "s3.amazonaws.com" or "storage.example.com:9000"'
    if "://" in text or "/" in text:
        raise ValueError(f"is a URL or has a path, and {message}")
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    host, port = _split_port(text.removeprefix("*." if text.startswith("*.") else "."), message)
    name = _host(host, message)
    if ":" in name:
        name = f"[{name}]"
    if port is None:
        return name
    number = _port(port, message)
    if number == 0:
        raise ValueError("has port 0; write a port from 1 to 65535")
    return f"{name}:{number}"


def parse_network(text: str) -> str:
    """An IP address or network in CIDR notation, in its usual form."""
    try:
        if "/" in text:
            return str(ipaddress.ip_network(text, strict=False))
        return str(ipaddress.ip_address(text))
    except ValueError:
        message = 'is no address or network; write for example "10.0.0.5" or "10.0.0.0/8"'
        raise ValueError(message) from None


def parse_secret(text: str) -> bytes:
    """The bytes behind base64, standard or URL-safe alphabet, padding optional."""
    compact = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        secret = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise ValueError("is not base64; make one with: openssl rand -base64 32")
    return secret


def parse_tls_version(text: str) -> str:
    if text not in TLS_VERSIONS:
        raise ValueError('is no TLS version; write "1.0", "1.1", "1.2" or "1.3"')
    return text


def parse_file(text: str) -> str:
    """The path of a file, without blanks around it."""
    path = text.strip()
    if not path or "\0" in path:
        raise ValueError("is no path; write the path of a file")
    return path


def split_list(text: str) -> list[str]:
    """The entries of a list in the environment, separated by commas or blanks."""
    return text.replace(",", " ").split()


def mask_url(text: str) -> str:
    """A URL, or what was meant as one, with user name, password and query hidden."""
    text = re.sub(r"^([A-Za-z]*://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"\?.+", "?***", text, flags=re.DOTALL)


def printable(text: str, longest: int = 200) -> str:
    """The text as it is when it is harmless in one line, else as a quoted JSON string."""
    if text.isprintable() and len(text) <= longest:
        return text
    return json.dumps(text[:longest])
