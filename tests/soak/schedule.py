"""Which fault comes in which second: every kind at least once, however short the run. Pure."""

import random
from collections.abc import Mapping


def schedule(weights: Mapping[str, float], seconds: int, luck: random.Random) -> list[str]:
    """One kind for each second, about as often as its weight says, and each at least once.

    Raises ValueError when there are fewer seconds than kinds.
    """
    if seconds < len(weights):
        raise ValueError(f"{len(weights)} kinds of faults need as many seconds")
    total = sum(weights.values())
    plan = list(weights)
    for kind, weight in weights.items():
        plan += [kind] * (int(weight / total * seconds) - 1)
    rest = seconds - len(plan)
    if rest > 0:
        plan += luck.choices(list(weights), list(weights.values()), k=rest)
    luck.shuffle(plan)
    return plan[:seconds] if rest >= 0 else _shortened(plan, seconds)


def _shortened(plan: list[str], seconds: int) -> list[str]:
    """Drops the most frequent kinds first, so that none is lost."""
    plan = list(plan)
    while len(plan) > seconds:
        plan.remove(max(plan, key=plan.count))
    return plan
