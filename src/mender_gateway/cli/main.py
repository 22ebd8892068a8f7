"""The command `mender-gateway`: without a subcommand it is the daemon.

Modules of commands are imported only when their name was given, so that `--version` and the daemon
do not pay for them. From the first line of `main` on, SIGTERM and SIGINT end the process with
status 0; the running gateway replaces these handlers by a drain.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

LEVELS = ("debug", "info", "warn", "error", "fatal")
_COMMANDS = {
    "cache": ("cache", "what the artifact cache holds; prune it, verify it"),
    "check-config": ("check_config", "show the settings in force, check them, and end"),
    "inventory": ("inventory", "what this host's own Mender client reports about the gateway"),
    "pki": ("pki", "certificates for trying out mutual TLS"),
    "demo": ("demo", "a server, a slow uplink, a gateway and a fleet on this machine"),
}
_STOPPING = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (None: that of the process) names; the exit status."""
    before = {number: signal.signal(number, _end) for number in _STOPPING}
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser(arguments).parse_args(arguments)
    except SystemExit:
        _restore(before)
        raise
    if options.command is None:
        from mender_gateway.cli import serve

        return serve.run(options)
    _restore(before)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 130


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing has begun that would need an orderly end."""
    os._exit(0)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _parser(arguments: Sequence[str]) -> "ArgumentParser":
    """The parser, with the options of those commands only whose name occurs in `arguments`."""
    from argparse import SUPPRESS, ArgumentParser

    from mender_gateway import __version__

    parser = ArgumentParser(
        prog="mender-gateway",
        description="A gateway between devices without internet access and a Mender Server. "
        "Without a command it serves until SIGTERM.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mender-gateway {__version__}")
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file (/etc/mender/mender-gateway.conf)"
    )
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=_level,
        default="info",
        help=f"one of {', '.join(LEVELS)} (info)",
    )
    parser.add_argument(
        "--log-format", choices=("logfmt", "json"), default="logfmt", help="(logfmt)"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (_, summary) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary, argument_default=SUPPRESS, allow_abbrev=False
        )
        if name in arguments:
            _module(name).add_arguments(command)
    return parser


def _level(text: str) -> str:
    from argparse import ArgumentTypeError

    level = {"warning": "warn"}.get(text.lower(), text.lower())
    if level not in LEVELS:
        raise ArgumentTypeError(f"{text!r} is none of {', '.join(LEVELS)}")
    return level


def _run(options: "Namespace") -> int:
    status: int = _module(options.command).run(options)
    return status


def _module(command: str) -> Any:
    from importlib import import_module

    name = f"mender_gateway.cli.{_COMMANDS[command][0]}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        print(f"mender-gateway: this installation has no command {command}", file=sys.stderr)
        raise SystemExit(1) from None
