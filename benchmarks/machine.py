"""What was measured and where: the commit, the processor, the kernel, the versions of the peers."""

import os
import platform
import ssl
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The checked-out commit; `-dirty` when the program's own sources differ from it."""
    head = _output(["git", "rev-parse", "HEAD"])
    if not head:
        return "unknown"
    changed = _output(["git", "status", "--porcelain", "--", "src", "benchmarks/"])
    lines = [line for line in changed.splitlines() if "benchmarks/results/" not in line]
    return f"{head}-dirty" if lines else head


def describe(versions: dict[str, str]) -> dict[str, str | float]:
    """The machine, how busy it is at this moment, and the versions of what runs on it."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(command: list[str]) -> str:
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except OSError:
        return ""
    return ran.stdout.rstrip("\n") if ran.returncode == 0 else ""
