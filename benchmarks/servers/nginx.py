"""nginx as a peer, as the upstream that answers everything, and as a TLS client for wrk.

As a peer it forwards with kept-alive upstream connections, serves files by sendfile, and caches
with a lock, so that it has every means it knows for the jobs that are measured.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.certificates import Certificates
from benchmarks.processes import Server, free_port, running
from benchmarks.tools import need

_FRAME = """\
{modules}
user root;
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
"""

_HTTP = """\
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{content}
}}
"""

_FORWARD = """\
    upstream api {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    map $http_upgrade $connection_out {{ default upgrade; '' ''; }}
    proxy_http_version 1.1;
    proxy_set_header Connection $connection_out;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_read_timeout 600s;
"""

_TLS = """\
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
"""

_MUTUAL = """\
        ssl_client_certificate {ca};
        ssl_verify_client on;
        ssl_verify_depth 3;
"""


@contextmanager
def peer(
    folder: Path,
    workers: int,
    upstream: str,
    certificates: Certificates,
    *,
    files: Path | None = None,
    mutual: bool = False,
    name: str = "nginx",
) -> Iterator[Server]:
    """Forwards everything to `upstream` (host:port), but serves what is under /files/."""
    ports = {"http": free_port(), "https": free_port()}
    tls = _TLS.format(certificate=certificates.server.certificate, key=certificates.server.key)
    if mutual:
        tls += _MUTUAL.format(ca=certificates.device_ca)
    content = _FORWARD.format(upstream=upstream)
    served = f"        location /files/ {{ alias {files}/; }}\n" if files else ""
    content += (
        "    server {\n"
        f"        listen 127.0.0.1:{ports['http']};\n"
        f"        listen 127.0.0.1:{ports['https']} ssl;\n"
        f"{tls}{served}"
        "        location / { proxy_pass http://api; }\n"
        "    }\n"
    )
    with _nginx(name, folder, workers, content, ports) as server:
        yield server


@contextmanager
def cache(folder: Path, workers: int, storage: str, name: str = "nginx") -> Iterator[Server]:
    """Caches `storage` (host:port) with one fetch for all who ask (proxy_cache_lock)."""
    ports = {"http": free_port()}
    content = (
        f"    proxy_cache_path {folder}/cache keys_zone=objects:1m max_size=1g inactive=1d;\n"
        "    server {\n"
        f"        listen 127.0.0.1:{ports['http']};\n"
        "        location / {\n"
        f"            proxy_pass http://{storage};\n"
        f"            proxy_set_header Host {storage};\n"
        "            proxy_http_version 1.1;\n"
        "            proxy_cache objects;\n"
        "            proxy_cache_key $uri;\n"
        "            proxy_cache_valid 200 1d;\n"
        "            proxy_cache_lock on;\n"
        "            proxy_read_timeout 600s;\n"
        "        }\n"
        "    }\n"
    )
    with _nginx(name, folder, workers, content, ports) as server:
        yield server


@contextmanager
def upstream(folder: Path, answers: Mapping[str, str]) -> Iterator[Server]:
    """Answers every path with its JSON (200, without a body where the text is empty).

    `answers` by exact path; the path `/` stands for all others.
    """
    ports = {"http": free_port()}
    locations = []
    for path, text in answers.items():
        if "'" in text or "$" in text:
            raise ValueError(f"the answer for {path} cannot be quoted: {text}")
        place = "/" if path == "/" else f"= {path}"
        locations.append(f"        location {place} {{ return 200 '{text}'; }}\n")
    content = (
        "    server {\n"
        "        default_type application/json;\n"
        f"        listen 127.0.0.1:{ports['http']};\n"
        f"{''.join(locations)}"
        "    }\n"
    )
    with _nginx("upstream", folder, 1, content, ports) as server:
        yield server


@contextmanager
def presenting(folder: Path, certificates: Certificates, towards: int) -> Iterator[Server]:
    """Takes plain connections and opens a TLS connection for each, with a device's certificate.

    wrk can show no client certificate; the server under test sees the TLS connections of nginx.
    """
    ports = {"http": free_port()}
    module = f"load_module {need('nginx-stream')};"
    text = (
        _FRAME.format(modules=module, workers=1, folder=folder) + "stream {\n"
        "    server {\n"
        f"        listen 127.0.0.1:{ports['http']};\n"
        f"        proxy_pass 127.0.0.1:{towards};\n"
        "        proxy_timeout 600s;\n"
        "        proxy_ssl on;\n"
        "        proxy_ssl_protocols TLSv1.3;\n"
        "        proxy_ssl_session_reuse off;\n"
        f"        proxy_ssl_certificate {certificates.device.certificate};\n"
        f"        proxy_ssl_certificate_key {certificates.device.key};\n"
        "    }\n"
        "}\n"
    )
    with _started("presenting", folder, text, ports) as server:
        yield server


@contextmanager
def _nginx(
    name: str, folder: Path, workers: int, content: str, ports: Mapping[str, int]
) -> Iterator[Server]:
    text = _FRAME.format(modules="", workers=workers, folder=folder)
    text += _HTTP.format(folder=folder, content=content)
    with _started(name, folder, text, ports) as server:
        yield server


@contextmanager
def _started(name: str, folder: Path, text: str, ports: Mapping[str, int]) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nginx.conf"
    path.write_text(text)
    command = [need("nginx"), "-c", str(path), "-p", str(folder), "-e", "stderr"]
    with running(name, command, folder, ports) as server:
        yield server
