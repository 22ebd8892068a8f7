"""The commands of the guide to mutual TLS are run, in their order, as they stand there."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import fixed_port

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "mtls.md").read_text()
ENTERS = re.compile(r"^enter (\S+)  # (\d{3})$", re.MULTILINE)

EXPECT = """
expect() {
    tries=0
    while [ "$(enter "$1" || true)" != "$2" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then echo "$1 is not answered $2" >&2; exit 9; fi
        sleep 0.2
    done
    echo "expected: $1 $2"
}
grep() {  # a line of the log may be a moment behind the answer
    tries=0
    until command grep "$@"; do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then echo "not found: $*" >&2; return 1; fi
        sleep 0.2
    done
}
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_step_of_the_guide_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    script = "set -e\n" + EXPECT + "\n".join(ENTERS.sub(r"expect \1 \2", b) for b in blocks)
    script = script.replace("8443", str(fixed_port()))
    command = tmp_path / "bin" / "mender-gateway"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mender_gateway "$@"\n')
    command.chmod(0o755)
    clean = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    try:
        ran = subprocess.run(
            ["sh"],
            input=script,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            env={**clean, "PATH": f"{command.parent}:{os.environ['PATH']}"},
        )
        log = tmp_path / "gateway.log"
        assert ran.returncode == 0, (ran.stderr[-2000:], log.exists() and log.read_text()[-3000:])
        assert ran.stdout.count("expected: ") == len(ENTERS.findall(TEXT)) > 15
        assert "the gateway would start" in ran.stdout
    finally:
        pid = tmp_path / "gateway.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


def test_every_reason_is_explained() -> None:
    from mender_gateway.net.refusal import Reason

    unexplained = {str(reason) for reason in Reason if f"`{reason}`" not in TEXT}
    assert unexplained == {"resumed-session", "other"}


def test_every_outcome_is_explained() -> None:
    from mender_gateway.devices.provisioning import Outcome

    unexplained = {str(outcome) for outcome in Outcome if f"`{outcome}`" not in TEXT}
    assert unexplained == {"answered", "authorised", "rotated", "already-authorised"}
