"""Full TLS handshakes, one request each: `openssl s_time -new`, several at a time.

It offers no session, so every connection is a full handshake of TLS 1.3; the request is HTTP/1.0,
so the server ends the connection.
"""

import re
import subprocess

from benchmarks.load.wrk import LoadFailed
from benchmarks.tools import need

_PARALLEL = 4
_COUNT = re.compile(r"(\d+) connections in \d+ real seconds, (\d+) bytes read per connection")
_GRACE = 30.0


def drive(port: int, path: str, seconds: float) -> int:
    """Completed handshakes with an answer; blocks. Raises LoadFailed."""
    command = [
        *(need("openssl"), "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-tls1_3"),
        *("-time", str(max(1, round(seconds))), "-www", path),
    ]
    clients = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(_PARALLEL)
    ]
    try:
        return sum(_count(client, seconds) for client in clients)
    finally:
        for client in clients:
            if client.poll() is None:
                client.kill()
            client.communicate()


def _count(client: subprocess.Popen[str], seconds: float) -> int:
    try:
        output, _ = client.communicate(timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired:
        raise LoadFailed("openssl s_time did not end in time") from None
    found = _COUNT.search(output)
    if client.returncode != 0 or found is None or int(found[2]) == 0:
        raise LoadFailed(f"openssl s_time failed:\n{output[-1000:]}")
    return int(found[1])
