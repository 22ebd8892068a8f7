"""The documentation says what is there: lines of the log, metrics, rooms, commands, links."""

import ast
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mender_gateway.cache.settings import Kind
from tests.mtls.fleet import running_fleet

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "mender_gateway"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERYTHING = "\n".join(page.read_text() for page in PAGES)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
LINES = re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING, re.MULTILINE)
"""The texts in the table of log lines."""
GOOD_NEWS = {Kind.HEALED, Kind.FILL_STARTED, Kind.TAKEN_OVER, Kind.COMMITTED, Kind.EVICTED}


def complaints() -> Iterator[str]:
    """What the sources log at warning or above, each text up to its first variable part."""
    for path in SOURCES.rglob("*.py"):
        if "demo" in path.relative_to(SOURCES).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                texts = [text for each in node.args if (text := beginning(each))]
                match node.func.attr:
                    case "warn" | "_warn" | "error" | "fatal" | "_say" if texts:
                        yield texts[0]
                    case "once_per" if texts[-1] not in ("warn", "cache: "):
                        yield texts[-1]
    yield from (f"cache: {kind}" for kind in Kind if kind not in GOOD_NEWS)


def beginning(node: ast.expr) -> str | None:
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_warning_and_error_of_the_log_is_explained() -> None:
    found = set(complaints())
    assert len(found) > 25
    assert {text for text in found if not any(text.startswith(line) for line in LINES)} == set()


def test_every_line_that_is_explained_is_logged() -> None:
    dropped = "log lines were dropped"  # the log's own, written by its thread
    assert dropped in (SOURCES / "observe" / "log.py").read_text()
    found = {*complaints(), dropped}
    assert {line for line in LINES if not any(text.startswith(line) for text in found)} == set()


def test_every_metric_is_documented_and_none_that_does_not_exist(tmp_path: Path) -> None:
    with (
        running_fleet(tmp_path, cache=True) as fleet,
        urllib.request.urlopen(fleet.gateway.url("metrics") + "/metrics", timeout=20) as answer,
    ):
        text = answer.read().decode()
    served = {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name
        for name, kind in re.findall(r"^# TYPE (mender_gateway_\w+) (\w+)$", text, re.MULTILINE)
    }
    assert (
        set(re.findall(r"`(mender_gateway_\w+)`", OPERATIONS)) - {"mender_gateway_system_id"}
        == served
    )


def test_every_room_is_shown_and_none_that_does_not_exist() -> None:
    plan = re.search(r"```\nsrc/mender_gateway/\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert plan is not None
    shown = set(re.findall(r"^  (\w+/|\w+\.py)", plan[1], re.MULTILINE))
    shown |= set(re.findall(r"\b\w+\.py\b", plan[1]))
    rooms = {f"{each.parent.name}/" for each in SOURCES.glob("*/__init__.py")}
    modules = {each.name for each in SOURCES.glob("*.py") if not each.name.startswith("_")}
    assert shown == rooms | modules


def test_the_arrows_are_those_that_the_linter_holds() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = contracts[0]["layers"]
    held = [set(layer.replace("mender_gateway.", "").split(" | ")) for layer in layers]
    drawing = re.search(r"```\n(cli\n.*?)```", ARCHITECTURE, re.DOTALL)
    assert drawing is not None
    assert [set(line.split()) for line in drawing[1].splitlines()] == held


def test_every_command_is_shown_and_none_that_does_not_exist() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mender_gateway", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    listed = re.search(r"COMMAND\n(.*)", ran.stdout, re.DOTALL)
    assert listed is not None
    commands = set(re.findall(r"^    ([\w-]+) ", listed[1], re.MULTILINE))
    assert set(re.findall(r"^mender-gateway ([a-z-]+)", CONFIGURATION, re.MULTILINE)) == commands


def test_every_target_of_make_that_is_named_exists() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"`make ([a-z-]+)|^ {4}make ([a-z-]+)", EVERYTHING, re.MULTILINE))
    assert {one or other for one, other in named} - {""} <= set(phony.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text()), f"{path}#{anchor}"
