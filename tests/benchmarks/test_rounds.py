"""How servers take turns, how their CPU time is counted, and one real case as a user runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import tools
from benchmarks.load import wrk
from benchmarks.machine import ROOT
from benchmarks.processes import ServerFailed, cpu_of, free_port, running, tree
from benchmarks.rounds import Contender, NoWork, in_turns, one_round

_LISTEN = """\
import os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def burn():
    total = 0
    for number in range(3_000_000):
        total += number
child = os.fork()
if child == 0:
    burn()
    threading.Event().wait()
burner = threading.Thread(target=burn)
burner.start()
burner.join()
while True:
    listener.accept()[0].close()
"""


def test_every_server_has_its_turn_in_every_round_and_none_is_always_first() -> None:
    order: list[int] = []

    def measure(index: int) -> int:
        order.append(index)
        return index * 10

    assert in_turns(3, 3, measure) == [[0] * 3, [10] * 3, [20] * 3]
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]


def test_cpu_time_counts_threads_and_children_and_stop_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", _LISTEN, str(port)]
    with running("burner", command, tmp_path, {"http": port}) as server:
        deadline = time.monotonic() + 90
        while len(pids := server.pids()) < 2 or min(map(cpu_of, pids)) < 0.05:
            assert time.monotonic() < deadline, [cpu_of(pid) for pid in pids]
            time.sleep(0.01)
        assert server.cpu() >= sum(map(cpu_of, pids)) - 0.05
        assert server.resident() > 1e6
    assert [pid for pid in pids if _alive(pid)] == []


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such licence')"]
    with pytest.raises(ServerFailed, match="no such licence"):
        with running("refuser", command, tmp_path, {"http": free_port()}):
            pass


def test_a_round_without_work_is_no_figure(tmp_path: Path) -> None:
    port = free_port()
    with running(
        "idler", [sys.executable, "-c", _LISTEN, str(port)], tmp_path, {"http": port}
    ) as s:
        with pytest.raises(NoWork, match="idler did 0"):
            one_round(Contender("idler", s, lambda seconds: 0.0), 0.0)


def test_the_own_process_is_the_root_of_its_tree() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in tree(os.getpid())
        child.kill()


def test_failed_requests_make_a_round_invalid() -> None:
    line = '{"requests":9,"bytes":90,"micros":1e6,"failed":%d,"refused":%d,"p50":100,"p99":2000}'
    answered = wrk.read("some words\n" + line % (0, 0))
    assert (answered.requests, answered.seconds, answered.p99) == (9, 1.0, 0.002)
    for counts in ((1, 0), (0, 1)):
        with pytest.raises(wrk.LoadFailed, match="requests failed"):
            wrk.read(line % counts)
    with pytest.raises(wrk.LoadFailed, match="unable to connect"):
        wrk.read("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_quick_case_ends_with_its_json_and_leaves_nothing_behind(tmp_path: Path) -> None:
    missing = [tool for tool in ("nginx", "wrk", "caddy") if tools.path_of(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; `make bench-quick` installs them")
    command = [sys.executable, "-m", "benchmarks", "--case", "api-plain", "--quick", "--json"]
    ran = subprocess.run(
        [*command, "--rounds", "1", "--no-install"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.rstrip("\n").rpartition("\n")[2])
    assert found["case"] == "api-plain"
    assert found["ours"] > 0
    assert found["peers"].keys() == {"nginx", "caddy"}
    assert found["ratios"]["caddy"] == pytest.approx(found["ours"] / found["peers"]["caddy"], 0.01)
    assert found["targets"] == {"caddy": 1.7}
    assert list(tmp_path.iterdir()) == []
    assert _processes_that_name(str(tmp_path)) == []


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _processes_that_name(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
