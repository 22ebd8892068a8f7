"""`mender-gateway check-config`: the settings in force, where each comes from, and what is wrong.

It takes the daemon's path up to, and without, the first port: the same loading, the same checks of
certificates and keys, and closer ones on top. Exit status 1 means that the daemon would refuse.
"""

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from operator import attrgetter

from mender_gateway.config.certificates import check_certificates
from mender_gateway.config.inspection import look_closely
from mender_gateway.config.keys import KEYS, Key
from mender_gateway.config.load import Examination, examine
from mender_gateway.config.settings import Config
from mender_gateway.config.values import printable

_HEADINGS = ("KEY", "VALUE", "ORIGIN")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file (/etc/mender/mender-gateway.conf)"
    )


def run(options: Namespace) -> int:
    """Print the report on stdout; 0 when the daemon would start, else 1."""
    found = examine(options.config, os.environ)
    rows = [(key.path, _value(key, found), found.origins[key.path]) for key in KEYS]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        _print_lines(rows)
    errors, warnings = list(found.errors), list(found.warnings)
    if not found.unusable:
        certificates = check_certificates(found.config, time.time())
        errors += certificates.errors
        warnings += certificates.warnings
        warnings += look_closely(found.config)
        if found.config.mtls.enabled and not errors:
            _check_trust(found.config, errors, warnings)
    print()
    for warning in warnings:
        print(f"warning: {warning}")
    for error in errors:
        print(f"error: {error}")
    print(_verdict(len(errors), len(warnings)))
    return 1 if errors else 0


def _check_trust(config: Config, errors: list[str], warnings: list[str]) -> None:
    """Roots, blacklist and revocation lists, read as the daemon reads them."""
    from mender_gateway.mutual_tls import trust_files
    from mender_gateway.net.trust import BadTrust, load_trust

    try:
        warnings += load_trust(trust_files(config)).warnings
    except BadTrust as error:
        errors.append(f"{error.what}: {error}")


def _value(key: Key, found: Examination) -> str:
    if key.path in found.unusable:
        return "(unusable)"
    if key.path == "UpstreamServer.URL" and found.origins[key.path] == "default":
        return "(missing)"
    value = attrgetter(key.target)(found.config)
    if value is None or value in ("", ()):
        return "-"
    return "***" if key.secret else printable(key.kind.show(value))


def _verdict(errors: int, warnings: int) -> str:
    counted = [
        f"{number} {noun}{'' if number == 1 else 's'}"
        for number, noun in ((errors, "error"), (warnings, "warning"))
        if number
    ]
    verdict = "the gateway would not start" if errors else "the gateway would start"
    return f"{verdict}: {', '.join(counted) or 'nothing to complain about'}"


def _print_lines(rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(len(row[column]) for row in (_HEADINGS, *rows)) for column in (0, 1)]
    for key, value, origin in (_HEADINGS, *rows):
        print(f"{key:{widths[0]}}  {value:{min(widths[1], 60)}}  {origin}")


def _print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_HEADINGS)
    for key, value, origin in rows:
        style = "dim" if origin == "default" else "bold"
        table.add_row(*(Text(cell, style=style) for cell in (key, value, origin)))
    Console().print(table)
