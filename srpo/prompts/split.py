"""Who sees which held-out prompt: those that choose the best checkpoint do not serve for the verdict on it."""

from collections.abc import Sequence

from srpo.sample_size import MIN_PROMPTS


def split_held_out(categories: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """Places of the monitor's prompts and of the verdict's, both ascending, from the category of every prompt.

    The monitor gets `share` of them (rounded; at least one, and `MIN_PROMPTS` are left for the verdict), evenly spaced
    over the prompts in the order of their categories, so that each category is divided alike.
    """
    count = len(categories)
    of_monitor = min(max(1, round(share * count)), count - MIN_PROMPTS)
    order = sorted(range(count), key=lambda place: categories[place])
    monitor = {order[(2 * number + 1) * count // (2 * of_monitor)] for number in range(of_monitor)}
    return sorted(monitor), [place for place in range(count) if place not in monitor]
