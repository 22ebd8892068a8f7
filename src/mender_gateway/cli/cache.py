"""`mender-gateway cache`: what is stored, how much room it takes, and how to get rid of it.

Works on the directory alone, beside running gateways or without any: by the same locks, so that
nothing that is being served or filled is removed. Tables are for people, `--json` is for programs.
"""

import dataclasses
import json
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import Any, NoReturn

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.room import survey
from mender_gateway.cache.settings import CacheSettings
from mender_gateway.cache.shelf import Shelf
from mender_gateway.cli import cache_tables as tables
from mender_gateway.cli.cache_prune import prune
from mender_gateway.cli.cache_verify import verify
from mender_gateway.config.load import examine
from mender_gateway.config.settings import ArtifactsCache
from mender_gateway.config.values import parse_period, parse_size

_PATH = "Features.ArtifactsProxy.ArtifactsCache.Path"


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = actions.add_parser("list", help="what is stored, and what is on its way")
    info = actions.add_parser("info", help="how much room is taken and left")
    pruning = actions.add_parser("prune", help="remove what was not served for long")
    pruning.add_argument(
        "--older-than", metavar="AGE", type=_parsed(parse_period), help="not served since: 30d, 12h"
    )
    pruning.add_argument(
        "--to-size", metavar="SIZE", type=_parsed(parse_size), help="down to this size: 2GB"
    )
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    verifying = actions.add_parser(
        "verify", help="read what is stored and compare it; remove what is damaged"
    )
    verifying.add_argument("ids", metavar="ID", nargs="*", help="the objects, by default all")
    verifying.add_argument("--keep", action="store_true", help="remove nothing")
    for action in (listing, info, pruning, verifying):
        action.add_argument(
            "--config",
            metavar="FILE",
            default=SUPPRESS,  # may stand before the command, too
            help="configuration file (/etc/mender/mender-gateway.conf)",
        )
        action.add_argument("--path", metavar="DIR", help="the cache's directory, instead")
        action.add_argument("--json", action="store_true", help="for programs")


def run(options: Namespace) -> int:
    """Do what was asked; 0 when all is well, 1 when not, with the reason on stderr."""
    settings = _settings(options)
    path = settings.path
    if not os.path.isdir(path):
        _fail(f"there is no directory {path}; name the cache with --path")
    shelf = Shelf(path)
    try:
        return _act(options, shelf, settings)
    except PermissionError as error:
        _fail(f"{error.filename or path}: permission denied; run it as the gateway's user, or root")
    except OSError as error:
        _fail(f"{path}: {error}")


def _act(options: Namespace, shelf: Shelf, settings: ArtifactsCache) -> int:
    os.listdir(shelf.layout.path)
    match options.action:
        case "list":
            objects, arriving = shelf.objects(), shelf.arriving()
            if options.json:
                _print_json(
                    objects=[tables.object_fields(stored) for stored in objects],
                    partials=[tables.partial_fields(partial) for partial in arriving],
                )
            else:
                tables.print_list(objects, arriving, time.time())
            return 0
        case "info":
            fields = _figures(shelf, settings)
            if options.json:
                _print_json(**fields)
            else:
                tables.print_info(fields)
            return 0
        case "prune":
            if options.older_than is None and options.to_size is None:
                _fail("cache prune: say --older-than, --to-size, or both")
            pruned = prune(
                shelf,
                time.time(),
                older_than=options.older_than,
                to_size=options.to_size,
                dry_run=options.dry_run,
            )
            if options.json:
                _print_json(**pruned.fields(dry_run=options.dry_run))
            else:
                tables.print_pruned(pruned, dry_run=options.dry_run)
            return 0 if pruned.reached else 1
    report = verify(shelf, options.ids, keep=options.keep, silent=options.json)
    if options.json:
        _print_json(**report.fields())
    else:
        tables.print_verified(report, keep=options.keep)
    for wanted in report.unknown:
        print(f"mender-gateway: no object {wanted} in {shelf.layout.path}", file=sys.stderr)
    return 1 if report.damaged or report.unknown else 0


def _figures(shelf: Shelf, settings: ArtifactsCache) -> dict[str, Any]:
    objects, arriving = shelf.objects(), shelf.arriving()
    system = os.statvfs(shelf.layout.path)
    fields: dict[str, Any] = {
        "path": shelf.layout.path,
        "objects": len(objects),
        "object_bytes": sum(stored.size for stored in objects),
        "partials": len(arriving),
        "partial_bytes": sum(partial.size for partial in arriving),
        "filling": sum(partial.filling for partial in arriving),
        "reserved_bytes": 0,
        "free_bytes": system.f_bavail * system.f_frsize,
        "file_system_bytes": system.f_blocks * system.f_frsize,
        "max_size": settings.max_size,
        "min_free_space": settings.min_free_space,
    }
    if os.path.isdir(shelf.layout.base):
        given = CacheSettings(max_size=settings.max_size, min_free_space=settings.min_free_space)
        stock, limits = survey(Disk(), shelf.layout, given)
        fields["reserved_bytes"] = stock.reserved
        fields["min_free_space"] = limits.min_free
    return fields


def _settings(options: Namespace) -> ArtifactsCache:
    """The cache's settings; what else is wrong with the configuration does not matter here."""
    if options.path is not None and options.config is None:
        return ArtifactsCache(path=options.path)
    found = examine(options.config, os.environ)
    unreadable = [error for error in found.errors if error.startswith(("--config", _PATH))]
    if unreadable:
        _fail(unreadable[0])
    cache = found.config.artifacts_proxy.cache
    return cache if options.path is None else dataclasses.replace(cache, path=options.path)


def _parsed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} {error}") from None

    return convert


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields, indent=2))


def _fail(text: str) -> NoReturn:
    print(f"mender-gateway: {text}", file=sys.stderr)
    raise SystemExit(1)
