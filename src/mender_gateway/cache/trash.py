"""How a directory of the cache disappears: renamed into the trash at once, deleted after that.

The rename takes the name away in one step, so nobody sees half a directory; what a killed process
left in the trash is deleted by the next one that starts.
"""

import secrets

from mender_gateway.cache.disk import Disk
from mender_gateway.cache.files import list_directory, remove_tree
from mender_gateway.cache.layout import Layout


def throw_away(disk: Disk, layout: Layout, path: str, object_id: str) -> None:
    """Removes a partial or object directory; one that is gone already is no error."""
    trash = f"{layout.trash}/{object_id}.{secrets.token_hex(8)}"
    try:
        disk.rename(path, trash)
    except (FileNotFoundError, NotADirectoryError):
        trash = path  # it, or the trash itself, was removed by hand
    remove_tree(disk, trash)


def empty_trash(disk: Disk, layout: Layout) -> None:
    for name in list_directory(disk, layout.trash):
        remove_tree(disk, f"{layout.trash}/{name}")
