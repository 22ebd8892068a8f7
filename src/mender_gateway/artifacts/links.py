"""What becomes of a link in deployment instructions: stored, forwarded, or left alone.

The order matters. Storage comes first, because servers exist that route ``/bucket/…`` on their own
host to their store; paths under ``/api/`` are never storage, because what lies there is the server
speaking. A link to the server itself or to the gateway (the server may build it from
X-Forwarded-Host) keeps path and query and comes in by the gateway's address. All else stays as it
is: a device with other ways out may still reach it.
"""

from collections.abc import Set as AbstractSet

import msgspec

from mender_gateway import errors
from mender_gateway.artifacts.identity import Origin, parse_storage_url
from mender_gateway.artifacts.whitelist import Whitelist
from mender_gateway.http.target import normalise, reads_as

_DEFAULT_PORTS = (80, 443)


class Storage(msgspec.Struct, frozen=True, gc=False):
    """An object in a whitelisted store."""

    origin: Origin


class Own(msgspec.Struct, frozen=True, gc=False):
    """The server's or the gateway's own; `target` is path and query, byte for byte."""

    target: str
    store: str | None = None
    """For what is no API: the DomainWhitelist line by which it would be an object in a store."""


class Foreign(msgspec.Struct, frozen=True, gc=False):
    """Neither; `entry` is the DomainWhitelist line that would cover it, or None if none can."""

    reason: str
    entry: str | None = None


def classify(
    url: str, whitelist: Whitelist, own_hosts: AbstractSet[tuple[str, int]]
) -> Storage | Own | Foreign:
    """Decide what `url` is; `own_hosts` are (host, port) of the upstream and of GatewayURL.

    The server takes the scheme of its own links from its configuration, so 80 and 443 are equal
    when own hosts are compared. Raises nothing: what cannot be read is Foreign.
    """
    try:
        origin = parse_storage_url(url)
        is_api = under_api(origin)
    except (errors.BadLink, errors.BadRequest) as error:
        return Foreign(str(error))
    host, port = origin.host, origin.port
    if not is_api and whitelist.allows(host, port):
        return Storage(origin)
    entry = f"[{host}]" if ":" in host else host
    also = _DEFAULT_PORTS if port in _DEFAULT_PORTS else (port,)
    if any((host, each) in own_hosts for each in also):
        return Own(origin.target, None if is_api else entry)
    if is_api:
        return Foreign("an API of a server that is not the upstream")
    return Foreign("its host is not on DomainWhitelist", entry)


def under_api(origin: Origin) -> bool:
    """Whether the path is, or some server could take it for, one of a server's APIs.

    Raises errors.BadRequest for a path that cannot be read.
    """
    target = origin.target.encode()
    path = normalise(target)
    return path[:5].lower() in (b"/api", b"/api/") or reads_as(target.partition(b"?")[0], (b"api",))
