"""Varnish as a peer for cached objects: in memory, streaming to many while it fetches once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import Server, free_port, running
from benchmarks.tools import need

_VCL = """\
vcl 4.1;
backend storage {{
    .host = "{host}";
    .port = "{port}";
    .first_byte_timeout = 600s;
    .between_bytes_timeout = 600s;
}}
sub vcl_recv {{
    unset req.http.Cookie;
    return (hash);
}}
sub vcl_hash {{
    hash_data(regsub(req.url, "\\?.*", ""));
    return (lookup);
}}
sub vcl_backend_fetch {{
    set bereq.http.Host = "{host}:{port}";
}}
sub vcl_backend_response {{
    if (beresp.status == 200) {{
        set beresp.ttl = 1d;
        set beresp.do_stream = true;
    }}
}}
"""


@contextmanager
def cache(folder: Path, storage: str, name: str = "varnish") -> Iterator[Server]:
    """Caches `storage` (host:port); the object is its path, without the query."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"http": free_port()}
    host, _, port = storage.rpartition(":")
    path = folder / "storage.vcl"
    path.write_text(_VCL.format(host=host, port=port))
    command = [
        need("varnishd"),
        *("-F", "-j", "none", "-n", str(folder / "work"), "-f", str(path)),
        *("-a", f"127.0.0.1:{ports['http']}", "-s", "malloc,256m"),
    ]
    with running(name, command, folder, ports) as server:
        yield server
