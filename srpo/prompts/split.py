"""Who sees which held-out prompt: those that choose the best checkpoint do not serve for the verdict on it.

Where not all prompts are used, each category gives its share of those that are.
"""

from collections.abc import Sequence

from srpo.sample_size import MIN_PROMPTS


def split_held_out(categories: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """Places of the monitor's prompts and of the verdict's, both ascending, from the category of every prompt.

    The monitor gets `share` of them (rounded; at least one, and `MIN_PROMPTS` are left for the verdict), evenly spaced
    over the prompts in the order of their categories, so that each category is divided alike.
    """
    count = len(categories)
    of_monitor = min(max(1, round(share * count)), count - MIN_PROMPTS)
    monitor = _evenly(categories, of_monitor)
    return monitor, sorted(set(range(count)) - set(monitor))


def take(categories: Sequence[str], number: int) -> list[int]:
    """Ascending places of so many prompts, or of all there are; without categories those of the first ones.

    With categories they are evenly spaced over the prompts in the order of these: a list that is sorted by category
    must not serve by its first ones alone.
    """
    if number < len(categories) and any(categories):
        return _evenly(categories, number)
    return list(range(min(number, len(categories))))


def _evenly(categories: Sequence[str], number: int) -> list[int]:
    """Ascending places of so many prompts, evenly spaced in the order of the categories."""
    count = len(categories)
    order = sorted(range(count), key=lambda place: categories[place])
    return sorted(order[(2 * index + 1) * count // (2 * number)] for index in range(number))
