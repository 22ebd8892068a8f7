"""wrk as the load: requests on keep-alive connections, plain or TLS, from one thread.

Requests that are more than a GET with fixed fields are written out in full by a Lua script. At its
end wrk prints one line of JSON; any failed request, and any status that is not a success, makes the
round invalid.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tools import need

_DONE = """\
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"bytes":%.0f,"micros":%.0f,"failed":%d,"refused":%d,"p50":%.0f,"p99":%.0f}\\n',
    summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.timeout,
    e.status, latency:percentile(50), latency:percentile(99)))
end
"""
_GRACE = 30.0
_TIMEOUT = 60
"""Seconds after which wrk gives a request up."""


class LoadFailed(Exception):
    """Requests failed: the figures of the round would be wrong."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk counted; latencies in seconds."""

    requests: int
    bytes: int
    seconds: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script in a file."""

    path: Path


def gets(folder: Path, headers: dict[str, str] | None = None) -> Script:
    """Plain GETs with these fields."""
    lines = [
        f"wrk.headers[{_quoted(name)}] = {_quoted(text)}\n"
        for name, text in (headers or {}).items()
    ]
    return _written(folder, "gets", "".join(lines))


def written(folder: Path, name: str, requests: Sequence[bytes]) -> Script:
    """Whole requests as bytes, sent one after the other and again from the first."""
    parts = ["local all = {\n"]
    parts += [f"  {_quoted(request.decode('latin-1'))},\n" for request in requests]
    parts.append("}\n")
    if len(requests) == 1:
        parts.append("local only = all[1]\nrequest = function() return only end\n")
    else:
        parts.append(
            "local at, size = 0, #all\n"
            "request = function() at = at % size + 1; return all[at] end\n"
        )
    return _written(folder, name, "".join(parts))


def _written(folder: Path, name: str, text: str) -> Script:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lua"
    path.write_bytes((text + _DONE).encode("latin-1"))
    return Script(path)


def _quoted(text: str) -> str:
    """A Lua string; bytes outside printable ASCII as decimal escapes."""
    inner = "".join(
        char if " " <= char <= "~" and char not in '"\\' else f"\\{ord(char):03d}" for char in text
    )
    return f'"{inner}"'


def start(url: str, script: Script, *, connections: int, seconds: float) -> subprocess.Popen[str]:
    """Starts wrk; `finish` waits for it."""
    command = [
        need("wrk"),
        *("-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{_TIMEOUT}s", "--latency", "-s", str(script.path), url),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float) -> Answered:
    """Waits for wrk and reads what it counted; raises LoadFailed."""
    try:
        output, _ = process.communicate(timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadFailed("wrk did not end in time") from None
    return read(output)


def read(output: str) -> Answered:
    """The last line of wrk's output; raises LoadFailed for failed requests."""
    last = output.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        raise LoadFailed(f"wrk failed:\n{output[-2000:]}")
    found = json.loads(last)
    if found["failed"] or found["refused"]:
        raise LoadFailed(f"requests failed: {last}")
    return Answered(
        requests=found["requests"],
        bytes=found["bytes"],
        seconds=found["micros"] / 1e6,
        p50=found["p50"] / 1e6,
        p99=found["p99"] / 1e6,
    )


def drive(url: str, script: Script, *, connections: int, seconds: float) -> Answered:
    """One run of wrk, from start to end; blocks."""
    return finish(start(url, script, connections=connections, seconds=seconds), seconds)
