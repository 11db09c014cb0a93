"""Numbers as sentences, tables and pages show them; scores may be about 1 or, like HPSv2.1's changes, about 0.0004."""

from collections.abc import Iterable
from pathlib import Path

MINUS = "\N{MINUS SIGN}"
ROUNDING = 1e-12  # of sums of scores, which are about 1
SMALL = 0.01  # below it, three decimals would leave one digit or none


def number(value: float) -> str:
    """Three decimals, or two digits of a small number; what rounding has left of 0 is 0."""
    if abs(value) <= ROUNDING:
        return "0.000"
    text = f"{value:#.2g}" if abs(value) < SMALL else f"{value:.3f}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """A number with its sign, which 0 has none of."""
    return f"+{number(value)}" if value > ROUNDING else number(value)


def span(lower: float, upper: float) -> str:
    """Both ends of the interval of a change."""
    return f"{signed(lower)} to {signed(upper)}"


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def level(confidence: float) -> str:
    """The level of intervals in percent, with all its digits."""
    return f"{100 * confidence:g}\N{NO-BREAK SPACE}%"


def nothing_seen(unseen: float) -> str:
    """What may hide behind prompts of which none differs."""
    return f"no prompt differs; a change on {100 * unseen:.2g}\N{NO-BREAK SPACE}% of all may be unseen"


def capitalised(name: str) -> str:
    """A name at the start of a sentence; the rest of it stays as it is written."""
    return name[:1].upper() + name[1:]


def shortest_end(path: Path, others: Iterable[Path]) -> str:
    """What an absolute path is called among others: as many of its last parts as no other path ends with."""
    ends = (path.parts[-length:] for length in range(1, len(path.parts) + 1))
    rest = [other.parts for other in others if other != path]
    return str(Path(*next(end for end in ends if all(other[-len(end) :] != end for other in rest))))
