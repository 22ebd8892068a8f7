"""What a follower sees of a fill elsewhere: once the lock is its own, nothing has escaped it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mender_gateway.cache import Attributes
from mender_gateway.cache.disk import Disk
from mender_gateway.cache.followed import open_followed
from mender_gateway.cache.layout import Layout, MarkState
from mender_gateway.cache.locks import EXCLUSIVE, try_lock
from mender_gateway.cache.partial import Partial

ATTRIBUTES = Attributes(100, etag='"v1"')


class BeforeTheLockIsTried(Disk):
    """Lets something happen once, in the moment before the filler's lock is tried."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen: Callable[[], None] | None = happen

    def flock(self, fd: int, operation: int) -> None:
        if self._happen is not None and os.readlink(f"/proc/self/fd/{fd}").endswith("fill.lock"):
            happen, self._happen = self._happen, None
            happen()
        super().flock(fd, operation)


def filler_at(layout: Layout, position: int) -> Partial:
    """A filler that holds its lock and has written so much."""
    os.makedirs(layout.partial("a"))
    lock = try_lock(Disk(), f"{layout.partial('a')}/fill.lock", EXCLUSIVE, create=True)
    assert lock is not None
    filler = Partial(Disk(), layout, "a", lock)
    filler.prepare(ATTRIBUTES, 4096)
    filler.declare()
    filler.write([bytes(position)])
    return filler


@pytest.mark.parametrize(
    ("last", "position", "state"),
    [
        (lambda filler: filler.write([bytes(20)]), 30, MarkState.FILLING),
        (lambda filler: (filler.write([bytes(90)]), filler.finish()), 100, MarkState.COMPLETE),
        (lambda filler: filler.abort(), 10, MarkState.ABORTED),
    ],
    ids=["writes", "finishes", "gives up"],
)
def test_what_a_filler_does_last_is_seen_by_the_look_that_takes_over(
    tmp_path: Path, last: Callable[[Partial], object], position: int, state: MarkState
) -> None:
    layout = Layout(str(tmp_path))
    filler = filler_at(layout, 10)

    def ends() -> None:
        last(filler)
        filler.close()

    followed = open_followed(BeforeTheLockIsTried(ends), layout, "a")
    assert followed is not None
    sight = followed.look()
    followed.close()
    assert (sight.free, sight.there) == (True, True)
    assert sight.mark is not None
    assert (sight.mark.position, sight.mark.state) == (position, state)
