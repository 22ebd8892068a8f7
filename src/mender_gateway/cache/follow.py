"""Following a fill that another process runs, and taking it over when that process dies.

The follower looks at the other's mark a dozen times a second and moves its own readers along. It
tries the lock each time: getting it means that the filler is dead, and the follower goes on in its
place with the same readers. A mark that shows no life for a minute under a lock that is held
(the process is stopped, or its disk is) ends the following: those readers fetch for themselves.
"""

import asyncio

from mender_gateway.cache.context import Context
from mender_gateway.cache.demand import Demand
from mender_gateway.cache.entry import Entry
from mender_gateway.cache.errors import Bypass, DiskTrouble, FillBroken
from mender_gateway.cache.followed import Followed, Sight
from mender_gateway.cache.layout import MarkState
from mender_gateway.cache.partial import Partial


async def follow(context: Context, demand: Demand, followed: Followed) -> Partial | None:
    """Makes the object known and moves its readers along until the fill ends; closes `followed`.

    Returns the partial, locked by us now, when the filler died before its end; otherwise None, and
    the entry is complete or broken. Raises Bypass when the mark is one that was found standing
    still before (`demand.stalled`), DiskTrouble before the object is known.
    """
    try:
        sight = await _first_sight(context, followed)
        if sight.free:
            return await context.threads.run(followed.adopt, discard=Partial.close)
        if demand.stalled is not None and sight.mark == demand.stalled:
            raise Bypass("busy", "the process that fills still shows no life")
        demand.stalled = None
        attributes, fd = followed.meta.attributes, followed.take_data()
        entry = context.enter(demand, attributes, fd, "joined")
        try:
            return await _follow(context, demand, entry, followed, sight)
        except DiskTrouble as error:
            context.trouble(str(error))
            entry.break_off(FillBroken(f"the cache's disk failed: {error}", resumable=True))
            return None
        except asyncio.CancelledError:
            entry.break_off(FillBroken("the cache is closing", resumable=False))
            raise
    finally:
        context.threads.later(followed.close)


async def _first_sight(context: Context, followed: Followed) -> Sight:
    """Looks until there is a fill to follow, or one to take over.

    One that has just been aborted is not followed any more; its filler is about to leave. Raises
    FillBroken when the partial object is gone or another one by now: the caller looks again.
    """
    loop, settings = asyncio.get_running_loop(), context.settings
    deadline = loop.time() + settings.stopped_elsewhere
    while loop.time() < deadline:
        sight = await context.threads.run(followed.look)
        if sight.free and not sight.there:
            break
        if sight.mark is not None and sight.mark.tag != followed.meta.tag:
            break
        if sight.free or sight.mark is None or sight.mark.state is not MarkState.ABORTED:
            return sight
        await asyncio.sleep(settings.poll)
    raise FillBroken("the fill elsewhere has just ended", resumable=True)


async def _follow(
    context: Context, demand: Demand, entry: Entry, followed: Followed, sight: Sight
) -> Partial | None:
    loop, settings = asyncio.get_running_loop(), context.settings
    last, alive = sight.mark, loop.time()
    while True:
        if _apply(entry, sight, followed.meta.tag):
            return None
        if sight.free:
            return await _adopt(context, entry, followed)
        if sight.mark is not None and sight.mark != last:
            last, alive = sight.mark, loop.time()
        elif loop.time() - alive >= settings.stopped_elsewhere:
            text = f"the process that fills shows no life for {settings.stopped_elsewhere:g} s"
            demand.stalled = last
            entry.break_off(FillBroken(text, resumable=True))
            return None
        await asyncio.sleep(settings.poll)
        sight = await context.threads.run(followed.look)


def _apply(entry: Entry, sight: Sight, tag: bytes) -> bool:
    """Tells the readers what the mark says; whether there is nothing left to follow."""
    mark = sight.mark
    if mark is not None and mark.tag != tag:
        entry.break_off(
            FillBroken("the origin has another object now", resumable=False, changed=True)
        )
        return True
    if mark is not None:
        entry.advance(mark.position)
        if mark.state is MarkState.ABORTED:
            entry.break_off(FillBroken("the process that filled gave up", resumable=False))
            return True
        if mark.state is MarkState.COMPLETE and not (sight.free and sight.there):
            return True  # its last byte is readable; who comes next finds the finished object
    if sight.free and not sight.there:
        entry.break_off(FillBroken("the partial object was removed", resumable=True))
        return True
    return False


async def _adopt(context: Context, entry: Entry, followed: Followed) -> Partial | None:
    partial = await context.threads.run(followed.adopt, discard=Partial.close)
    if partial.meta is None or partial.meta.tag != followed.meta.tag:
        context.threads.later(partial.close)
        entry.break_off(FillBroken("the partial object cannot be resumed", resumable=False))
        return None
    return partial
