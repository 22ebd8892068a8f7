"""The log's lines and its manners: one line each, no secrets, never in the way of its callers."""

import fcntl
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mender_gateway.observe.log import DEBUG, INFO, WARN, Form, Log

STAMP = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" '


class Written:
    """A log into a pipe; `lines` closes it and reads everything that was written."""

    def __init__(self, level: str = "debug", form: Form = "logfmt", capacity: int = 4096) -> None:
        self._out, self._in = os.pipe()
        self.log = Log(level, form, descriptor=self._in, capacity=capacity)

    def lines(self) -> list[str]:
        self.log.close()
        os.close(self._in)
        with open(self._out, encoding="utf-8") as file:
            return [re.sub(f"^{STAMP}", "", line.rstrip("\n")) for line in file]

    def line(self) -> str:
        (line,) = self.lines()
        return line


def access(log: Log, path: str = "/api/devices", status: int = 200, **more: Any) -> None:
    values = {"device": None, "request_id": "r1", "route": "api", "peer": "10.0.0.7", **more}
    log.access(
        "GET", path, status, 12, 0.0125, values["peer"], values["device"], values["request_id"],
        values["route"],
    )  # fmt: skip


def test_a_line_looks_like_one_of_logrus() -> None:
    written = Written()
    written.log.info("listening for devices", listen=":443", tls=True, count=3, took=0.25)
    written.log.close()
    os.close(written._in)
    with open(written._out, encoding="utf-8") as file:
        line = file.read()
    pattern = (
        STAMP + r'level=info msg="listening for devices" listen=":443" tls=true count=3 took=0\.25'
    )
    assert re.fullmatch(pattern + "\n", line)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warning"),
        ("error", "error"),
        ("fatal", "fatal"),
    ],
)
def test_levels_have_the_names_of_logrus(method: str, name: str) -> None:
    written = Written()
    getattr(written.log, method)("word")
    assert written.line() == f"level={name} msg=word"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("bare-word_1.2/3@4^5+6", "bare-word_1.2/3@4^5+6"),
        ("two words", '"two words"'),
        ("", '""'),
        ('say "hi"\\', r'"say \"hi\"\\"'),
        ("a\nb\r\tc\x00\x1b[31m\x7f", r'"a\nb\r\tc\x00\x1b[31m\x7f"'),
        ("\u2028\u202e\ud800", r'"\u2028\u202e\ud800"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("grün", '"grün"'),
        (b"\xff\n", r'"ÿ\n"'),
        (ValueError("no\nway"), r'"ValueError: no\nway"'),
        (TimeoutError(), "TimeoutError"),
        (1e-9, "0"),
        (float("nan"), "nan"),
        ([1, "x"], "\"[1, 'x']\""),
    ],
)
def test_values_are_quoted_as_go_quotes_them(value: object, shown: str) -> None:
    written = Written()
    written.log.info("m", value=value)
    assert written.line() == f"level=info msg=m value={shown}"


def test_fields_without_value_are_left_out_and_reserved_names_are_kept_apart() -> None:
    written = Written()
    written.log.info("m", absent=None, time=1, level=2, msg=3)
    assert written.line() == "level=info msg=m fields.time=1 fields.level=2 fields.msg=3"


def test_a_value_whose_text_fails_is_logged_all_the_same() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    written = Written()
    written.log.info("m", value=Broken())
    assert written.line() == 'level=info msg=m value="Broken without text: RuntimeError"'


def test_json_lines_hold_the_same_in_ascii() -> None:
    written = Written(form="json")
    written.log.warn("grün\n\x7f", count=3, absent=None, level="x", big=float("inf"))
    access(written.log, "/a?b=c", 404, device="d1")
    first, second = (json.loads(line) for line in written.lines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("time"))
    assert first == {
        "level": "warning",
        "msg": "grün\n\x7f",
        "count": 3,
        "fields.level": "x",
        "big": "inf",
    }
    assert second | {"time": ""} == {
        "time": "",
        "level": "warning",
        "msg": "request",
        "method": "GET",
        "path": "/a",
        "status": 404,
        "bytes": 12,
        "duration": 0.0125,
        "device": "d1",
        "request_id": "r1",
        "route": "api",
        "peer": "10.0.0.7",
    }


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_no_field_can_begin_a_second_line(form: Form) -> None:
    evil = 'x\nlevel=fatal msg="forged"\r\u2028'
    written = Written(form=form)
    written.log.info(evil, value=evil)
    written.log.access("G\nT", f"/{evil}", 200, 1, 0.1, f"p{evil}", evil, evil, "api")
    for line in written.lines():
        assert line.isprintable()


def test_levels_below_the_chosen_one_are_not_written() -> None:
    written = Written("warn")
    assert written.log.level == WARN
    written.log.debug("no")
    written.log.info("no")
    access(written.log, status=399)
    assert not written.log.once_per(1, "k", "info", "no")
    written.log.warn("yes")
    written.log.level = DEBUG
    written.log.debug("now")
    assert written.lines() == ["level=warning msg=yes", "level=debug msg=now"]


@pytest.mark.parametrize(
    ("status", "level"),
    [(101, "info"), (204, "info"), (304, "info"), (400, "warning"), (499, "warning"),
     (500, "error"), (504, "error")],
)  # fmt: skip
def test_the_access_line_has_the_level_of_its_status(status: int, level: str) -> None:
    written = Written()
    access(written.log, status=status)
    assert written.line() == (
        f"level={level} msg=request method=GET path=/api/devices status={status} bytes=12 "
        "duration=0.012500 request_id=r1 route=api peer=10.0.0.7"
    )


def test_the_access_line_names_the_device_where_known() -> None:
    written = Written()
    access(written.log, device="0d7c1a52-6c2f-4a52-8f43-1f3a51bd1be0", peer="::1")
    line = written.line()
    assert " device=0d7c1a52-6c2f-4a52-8f43-1f3a51bd1be0 " in line
    assert line.endswith('peer="::1"')


def test_the_paths_of_the_device_api_are_written_whole() -> None:
    path = (
        "/api/devices/v1/deployments/device/deployments/3a9e4a0b-61de-4f8c-9c3b-1f8f7d8f6f01/status"
    )
    written = Written()
    access(written.log, path)
    assert f"path={path} " in written.line()


def test_the_access_line_holds_no_query_and_no_token() -> None:
    written = Written()
    token = "Zm9vYmFy" * 8
    access(written.log, f"/artifact/{token}/x?signature={token}#frag")
    line = written.line()
    assert token not in line
    assert "signature" not in line
    assert ' path="/artifact/Zm9v***/x" ' in line


def test_long_values_are_cut() -> None:
    written = Written()
    written.log.info("m" * 5000, value="v " * 5000)
    access(written.log, "/" + "a/" * 50_000, request_id="r" * 60_000, device="d" * 60_000)
    assert all(len(line) < 6000 for line in written.lines())


def test_secrets_are_written_in_no_form() -> None:
    written = Written()
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJkZXZpY2UifQ.c2lnbmF0dXJlLXRoYXQtc2lnbnM"
    written.log.warn(f"refused Bearer {jwt} of https://user:hunter2@host/p?X-Amz-Signature=abcd")
    written.log.error(
        "e", error=RuntimeError(f"GET http://h/x?sig=abcd: {jwt}"), password="hunter2"
    )
    written.log.info("f", header="X-MEN-Signature: YWJjZA==", api_token=b"hunter2")
    text = "\n".join(written.lines())
    for secret in (jwt, "hunter2", "abcd", "YWJjZA", "c2lnbmF0dXJl"):
        assert secret not in text
    assert "https://***@host/p?***" in text


def test_once_per_lets_a_key_through_once_and_counts_the_rest() -> None:
    written = Written()
    results = [written.log.once_per(3600, "host", WARN, "add it", host="h") for _ in range(3)]
    assert results == [True, False, False]
    assert written.log.once_per(0, "other", "info", "first")
    written.log.once_per(0.0, "other", INFO, "second")
    assert written.lines() == [
        'level=warning msg="add it" host=h',
        "level=info msg=first",
        "level=info msg=second",
    ]


def test_once_per_says_how_much_it_suppressed() -> None:
    written = Written()
    log = written.log
    assert log.once_per(0.05, "k", WARN, "m")
    deadline = time.monotonic() + 10
    suppressed = 0
    while not log.once_per(0.05, "k", WARN, "m"):
        suppressed += 1
        assert time.monotonic() < deadline
    assert suppressed > 0
    assert written.lines()[1] == f"level=warning msg=m suppressed={suppressed}"


def test_once_per_forgets_the_oldest_of_very_many_keys() -> None:
    written = Written("warn")
    assert written.log.once_per(3600, "oldest", WARN, "m")
    for number in range(1024):
        assert written.log.once_per(3600, f"key {number}", WARN, "m")
    assert not written.log.once_per(3600, "key 1023", WARN, "m")
    assert written.log.once_per(3600, "oldest", WARN, "m")
    written.lines()


def test_once_per_lets_one_of_many_threads_through() -> None:
    written = Written()
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait(10)
        written.log.once_per(3600, "k", WARN, "m")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written.lines() == ["level=warning msg=m"]


def test_lines_of_one_thread_stay_in_order() -> None:
    written = Written()
    for number in range(500):
        written.log.info("m", number=number)
    assert written.lines() == [f"level=info msg=m number={number}" for number in range(500)]


def test_flush_waits_for_what_is_queued() -> None:
    written = Written()
    written.log.info("m")
    assert written.log.flush(10)
    assert b"msg=m" in os.read(written._out, 4096)
    written.lines()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def blocked_pipe() -> Iterator[tuple[int, int]]:
    """A full pipe that nobody reads."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(into, False)
    try:
        while True:
            os.write(into, b"\n" * 1024)
    except BlockingIOError:
        os.set_blocking(into, True)
    try:
        yield out, into
    finally:
        os.close(out)
        os.close(into)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_blocked_stderr_never_blocks_a_caller_and_drops_are_reported(blocking: bool) -> None:
    with blocked_pipe() as (out, into):
        os.set_blocking(into, blocking)
        log = Log("info", descriptor=into, capacity=100)
        began = time.monotonic()
        for number in range(10_000):
            log.info("m", number=number)
        assert time.monotonic() - began < 5
        lost = log.dropped
        assert lost >= 10_000 - 100 - 64 - 64
        text = b""
        # A writer that got a slice out before it was blocked reports in portions.
        while sum(int(count) for count in re.findall(rb"dropped\" count=(\d+)", text)) < lost:
            text += os.read(out, 65536)
        reader = threading.Thread(target=lambda: drain(out), daemon=True)
        reader.start()
        assert log.flush(10)
        log.close()
        written = len(re.findall(r"msg=m number=", text.decode()))
        assert written + lost <= 10_000
        assert log.dropped == lost
        os.set_blocking(into, True)
        os.write(into, b"\x04")
        reader.join(10)


def drain(descriptor: int) -> None:
    try:
        while not os.read(descriptor, 65536).endswith(b"\x04"):
            pass
    except OSError:
        pass  # the test has failed already and closed the pipe


def test_close_gives_up_on_a_blocked_stderr() -> None:
    with blocked_pipe() as (out, into):
        log = Log("info", descriptor=into)
        log.info("m")
        began = time.monotonic()
        assert not log.flush(0.1)
        log.close(0.2)
        assert time.monotonic() - began < 5
        while b"msg=m" not in os.read(out, 65536):  # lets the writer thread end
            pass
        until(lambda: not log._writer.is_alive())


def test_a_stderr_that_is_gone_is_survived() -> None:
    out, into = os.pipe()
    os.close(out)
    log = Log("info", descriptor=into)
    log.info("m")
    until(lambda: log.dropped == 1)
    log.info("m")
    until(lambda: log.dropped >= 2)
    log.close()
    os.close(into)


def test_a_process_ends_with_a_blocked_stderr_and_an_open_log() -> None:
    code = """
        import os
        from mender_gateway.observe.log import Log
        out, into = os.pipe()
        log = Log("info", descriptor=into)
        for number in range(4000):
            log.info("x" * 1000, number=number)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], timeout=30, check=False, capture_output=True
    )
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_record_costs_its_caller_next_to_nothing() -> None:
    with open(os.devnull, "wb") as null:
        log = Log("info", descriptor=null.fileno(), capacity=20_000)
        began = time.thread_time()
        for _ in range(10_000):
            access(log)
        took = time.thread_time() - began
        log.close(10)
    assert took / 10_000 < 50e-6  # about 1.5 µs on an idle machine
