"""How `mender-gateway cache` shows what it found: tables on a terminal, plain columns elsewhere."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mender_gateway.artifacts.description import Description, decode
from mender_gateway.cache.shelf import Arriving, Stored
from mender_gateway.config.values import printable

if TYPE_CHECKING:
    from mender_gateway.cli.cache_prune import Pruned
    from mender_gateway.cli.cache_verify import Report

_SHORT = 12
"""Characters of an id that are shown."""


def object_fields(stored: Stored) -> dict[str, Any]:
    known = decode(stored.meta.description) or Description()
    return {
        "id": stored.object_id,
        "artifact_name": known.artifact_name or None,
        "device_types": list(known.device_types),
        "payload_types": list(known.payload_types),
        "provides": known.provides,
        "verified": known.verified,
        "signed": known.signed,
        "size": stored.meta.length,
        "disk_bytes": stored.size,
        "sha256": stored.meta.sha256,
        "etag": stored.meta.etag,
        "last_served": round(stored.used, 3),
        "last_checked": round(stored.checked, 3),
    }


def partial_fields(partial: Arriving) -> dict[str, Any]:
    return {
        "id": partial.object_id,
        "size": partial.length,
        "received": partial.position,
        "disk_bytes": partial.size,
        "last_written": round(partial.used, 3),
        "filling": partial.filling,
    }


def print_list(objects: Sequence[Stored], arriving: Sequence[Arriving], now: float) -> None:
    rows = [("ARTIFACT", "DEVICE TYPES", "SIZE", "SERVED", "CHECKED", "STATE", "ID")]
    for stored in reversed(objects):
        known = decode(stored.meta.description) or Description()
        state = "verified" if known.verified else "stored"
        rows.append(
            (
                _shown(known.artifact_name) or "-",
                _shown(", ".join(known.device_types)) or "-",
                size_text(stored.meta.length),
                age_text(now - stored.used),
                age_text(now - stored.checked),
                state + (", signed" if known.signed else ""),
                stored.object_id[:_SHORT],
            )
        )
    for partial in arriving:
        share = f"{100 * partial.position // partial.length} %" if partial.length else "?"
        size = size_text(partial.length) if partial.length is not None else "-"
        state = f"arriving, {share}" if partial.filling else f"interrupted, {share}"
        age = age_text(now - partial.used) if partial.used else "-"
        rows.append(("-", "-", size, age, "-", state, partial.object_id[:_SHORT]))
    _print_rows(rows, right=(2,))
    count = f"{len(objects)} object{'' if len(objects) == 1 else 's'}"
    print(f"{count}, {size_text(sum(stored.size for stored in objects))}")


def print_info(fields: dict[str, Any]) -> None:
    def size(name: str) -> str:
        return size_text(fields[name]) if fields[name] is not None else "-"

    rows = [
        ("directory", fields["path"]),
        ("objects", f"{fields['objects']}, {size('object_bytes')}"),
        ("partial", f"{fields['partials']}, {size('partial_bytes')}, {fields['filling']} arriving"),
        ("reserved", size("reserved_bytes")),
        ("may hold", size("max_size") if fields["max_size"] is not None else "no limit"),
        ("stays free", size("min_free_space")),
        ("file system", f"{size('free_bytes')} of {size('file_system_bytes')} free"),
    ]
    _print_rows(rows, heading=False)


def print_pruned(pruned: "Pruned", *, dry_run: bool) -> None:
    would = "would remove" if dry_run else "removed"
    for candidate in pruned.removed:
        print(
            f"{would} {candidate.kind} {candidate.object_id[:_SHORT]}, {size_text(candidate.size)}"
        )
    for candidate in pruned.served:
        print(f"kept {candidate.object_id[:_SHORT]}, {size_text(candidate.size)}: it is in use")
    print(
        f"{would} {len(pruned.removed)}, {size_text(pruned.freed)}; {size_text(pruned.left)} left"
    )
    if not pruned.reached:
        print("mender-gateway: what is left is in use, or larger than asked for", file=sys.stderr)


def print_verified(report: "Report", *, keep: bool) -> None:
    for object_id in report.damaged:
        done = "kept" if object_id not in report.removed else "removed"
        print(f"damaged: {object_id}, {done}")
    print(f"{len(report.right)} right, {len(report.damaged)} damaged")


def size_text(size: int) -> str:
    """Bytes for people, in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def age_text(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _shown(text: str) -> str:
    return printable(text, 60) if text else ""


def _print_rows(
    rows: Sequence[tuple[str, ...]], *, right: tuple[int, ...] = (), heading: bool = True
) -> None:
    if sys.stdout.isatty():
        _print_table(rows, right, heading)
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _print_table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...], heading: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=heading)
    for column, name in enumerate(rows[0]):
        justify: Any = "right" if column in right else "left"
        table.add_column(name if heading else "", justify=justify)
    for row in rows[1:] if heading else rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
