"""Small requests: forwarded as they are, plain, over TLS and mutual TLS; rewritten; completed.

Thirty-two keep-alive connections ask an upstream that answers at once. `rewrite` and `inventory`
are measured against the gateway's own plain forwarding: what they add is ours alone.
"""

import json
from functools import partial

from benchmarks.figures import Check, Figure, Result
from benchmarks.load import wrk
from benchmarks.processes import ServerFailed
from benchmarks.rounds import Contender, interleaved
from benchmarks.servers import nginx
from benchmarks.site import HEADERS, INVENTORY, NEXT, PLAIN, Site

CONNECTIONS = 32
_LINK = (
    "https://storage.invalid/mender-artifact-storage/0f8a1f60-4a3c-4a0e-9f0e-2d8a6c1f7b11/"
    "7d1a2c34-9b1e-4f56-8a3b-0c9d8e7f6a5b?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=mender%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&response-content-disposition=attachment%3B%20filename%3D%22release-2.mender%22"
    "&response-content-type=application%2Fvnd.mender-artifact&x-id=GetObject"
    f"&X-Amz-Signature={'9f' * 32}"
)


def plain(site: Site) -> Result:
    return _forwarded(site, "api-plain", "http", least=1.7, dream=2.0)


def tls(site: Site) -> Result:
    return _forwarded(site, "api-tls", "https", least=1.4, dream=1.7)


def mutual(site: Site) -> Result:
    """wrk shows no client certificate: nginx does, one TLS connection for each of wrk's."""
    upstream = site.upstream()
    try:
        ours = site.ours(upstream, mutual=True)
    except ServerFailed as error:
        return Result("api-mtls", skipped=f"the gateway does not start with mutual TLS: {error}")
    script = wrk.gets(site.folder, HEADERS)
    contenders = []
    for number, server in enumerate([ours, *site.peers(upstream, mutual=True)]):
        folder = site.folder / f"presenting-{number}"
        front = nginx.presenting(folder, site.certificates, server.ports["https"])
        url = site.stack.enter_context(front).url() + PLAIN
        contenders.append(Contender(server.name, server, partial(_requests, url, script)))
    return _against_caddy(site, "api-mtls", contenders, least=1.4, dream=None)


def rewrite(site: Site) -> Result:
    """The poll as devices send it: with a chunked body, against an answer with a storage link."""
    provides = {"artifact_name": "release-1", "device_type": "demo-board"}
    wanted = {"device_provides": provides, "update_control_map": True}
    body = json.dumps(wanted, separators=(",", ":")).encode()
    return _beside_own_plain(site, "rewrite", b"POST", NEXT, body)


def inventory(site: Site) -> Result:
    """Forty attributes; the gateway adds two."""
    attributes = [
        {"name": f"attribute_{number:02}", "value": f"value of attribute {number:02}"}
        for number in range(40)
    ]
    body = json.dumps(attributes, separators=(",", ":")).encode()
    return _beside_own_plain(site, "inventory", b"PATCH", INVENTORY, body)


def _forwarded(site: Site, case: str, scheme: str, least: float, dream: float) -> Result:
    upstream = site.upstream()
    script = wrk.gets(site.folder, HEADERS)
    servers = [site.ours(upstream), *site.peers(upstream)]
    contenders = [
        Contender(server.name, server, partial(_requests, server.url(scheme) + PLAIN, script))
        for server in servers
    ]
    return _against_caddy(site, case, contenders, least, dream)


def _against_caddy(
    site: Site, case: str, contenders: list[Contender], least: float, dream: float | None
) -> Result:
    ours, *peers = interleaved(contenders, site.scale)
    figure = Figure(case, "requests per CPU-second", ours, tuple(peers))
    checks = tuple(
        Check(peer.name, figure.ratio(peer.name), least, dream=dream)
        for peer in peers
        if peer.name.startswith("caddy")
    )
    return Result(case, (figure,), checks)


def _beside_own_plain(site: Site, case: str, method: bytes, path: str, body: bytes) -> Result:
    upstream = site.upstream(link=_LINK)
    server = site.ours(upstream)
    forwarded = wrk.gets(site.folder, HEADERS)
    changed = wrk.written(site.folder, case, [chunked(method, path, body)])
    ours, own = interleaved(
        [
            Contender("ours", server, partial(_requests, server.url(), changed)),
            Contender("own api-plain", server, partial(_requests, server.url() + PLAIN, forwarded)),
        ],
        site.scale,
    )
    figure = Figure(case, "requests per CPU-second", ours, (own,))
    return Result(case, (figure,), (Check(own.name, figure.ratio(own.name), 0.6),))


def chunked(method: bytes, path: str, body: bytes) -> bytes:
    """A request with a body as devices send it: chunked, with a token."""
    fields = {"Host": "127.0.0.1", **HEADERS, "Content-Type": "application/json"}
    lines = [f"{name}: {value}\r\n".encode() for name, value in fields.items()]
    head = b"".join((b"%b %b HTTP/1.1\r\n" % (method, path.encode()), *lines))
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _requests(url: str, script: wrk.Script, seconds: float) -> float:
    return wrk.drive(url, script, connections=CONNECTIONS, seconds=seconds).requests
