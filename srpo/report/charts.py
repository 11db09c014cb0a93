"""The report's charts: matplotlib draws the curves, as inline SVG in the page's own colours.

Its inline styles, which the page's security policy forbids, become attributes, and its colours the page's variables, so
that a chart follows light and dark. The bar in a table's cell is a few lines of the template; its geometry is here.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from srpo.report.schema import Comparison, GateCheck

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (3.2, 1.75)  # inches, of 72 units of the view box
COLOURS = {name: f"#{place:06x}" for place, name in enumerate(("accent", "bad", "card", "good", "line", "soft"), 1)}
"""Variable of the page's style -> the colour that stands for it while matplotlib draws."""
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten
MARGIN = 1.12  # an interval bar's axis reaches this much further than what it shows
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class LineChart:
    """One quantity over the updates."""

    title: str
    svg: str
    """An element for the page, as wide as what holds it."""


@dataclass(frozen=True)
class Limit:
    """Where a limit of the gate lies on a bar, in percent."""

    at: float
    label: str


@dataclass(frozen=True)
class IntervalBar:
    """A change with its interval on an axis that is symmetric around 0; all positions in percent."""

    low: float
    high: float
    estimate: float
    limits: list[Limit]


def line_chart(
    title: str, entries: Sequence[Mapping[str, Any]], key: str, best_update: int, marks: bool
) -> LineChart | None:
    """`key` of the entries over their `update`; `marks` draws each entry as a point, hollow where it is damaged.

    What is missing or no finite number is passed over; None where nothing else is left.
    """
    entries = [entry for entry in entries if _is_finite(entry.get(key))]
    if not entries:
        return None
    from matplotlib import style  # training, which imports this package, draws no charts

    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": title}]):  # no matplotlibrc of the user's
        figure, notes = _draw(entries, key, best_update, marks)
        return LineChart(title, _inline(figure, f"{title} over the updates", notes))


def interval_bar(row: Comparison, checks: Sequence[GateCheck]) -> IntervalBar:
    """A metric's change, with the gate's limits on it as marks (ratios as the change they mean for this base)."""
    limits = {
        f"{check.limit.replace('_', ' ')} {check.threshold:g}": check.threshold
        if check.limit.endswith("change")
        else (check.threshold - 1) * row.reference
        for check in checks
    }
    changes = row.lower, row.upper, row.change, *limits.values()
    reach = MARGIN * max(map(abs, changes)) or 1.0
    low, high, estimate, *places = (50 + 50 * change / reach for change in changes)
    return IntervalBar(low, high, estimate, [Limit(at, label) for at, label in zip(places, limits, strict=True)])


def _draw(
    entries: Sequence[Mapping[str, Any]], key: str, best_update: int, marks: bool
) -> "tuple[Figure, dict[str, list[str]]]":
    """The figure, and id of a line of marks -> what is said of each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.plot(*_points(entries, key), color=COLOURS["accent"], clip_on=False)
    axes.axvline(best_update, color=COLOURS["good"], linewidth=1, linestyle="--", clip_on=False)
    notes: dict[str, list[str]] = {}
    for kind, face, edge in (("sound", "accent", "accent"), ("damaged", "card", "bad")) if marks else ():
        those = [entry for entry in entries if bool(entry.get("violations")) == (kind == "damaged")]
        (line,) = axes.plot(*_points(those, key), "o", markersize=5, gid=kind, clip_on=False)
        line.set(markerfacecolor=COLOURS[face], markeredgecolor=COLOURS[edge])
        notes[kind] = [_note(entry, key) for entry in those]
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=COLOURS["line"], clip_on=False)
    axes.tick_params(length=0, labelsize=8, labelcolor=COLOURS["soft"])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=STEPS, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=STEPS))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.yaxis.offsetText.set(color=COLOURS["soft"], size=8)
    return figure, notes


def _inline(figure: "Figure", label: str, notes: Mapping[str, Sequence[str]]) -> str:
    """The figure as an element of the page; `notes`: id of a line -> what hovering over each of its marks shows."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(drawn.getvalue())
    for kind, texts in notes.items():
        marks = root.iterfind(f".//*[@id='{kind}']//{SVG}use")
        for mark, text in zip(marks, texts, strict=True):
            ElementTree.SubElement(mark, f"{SVG}title").text = text
    for unwanted in (*root.findall(f"{SVG}metadata"), *root.findall(f"{SVG}defs")):  # what it says of itself; styles
        root.remove(unwanted)
    for element in root.iter():
        _tidy(element)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _tidy(element: ElementTree.Element) -> None:
    """As HTML has it, styles as attributes, without the font, which is the page's; no ids but those that marks need."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name and name != "font-family":
            element.set(name, value)
    if link := element.attrib.pop(LINK, None):
        element.set("href", link)
    element.tag = element.tag.removeprefix(SVG)
    if element.tag == "g":
        element.attrib.pop("id", None)


def _points(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    return [entry["update"] for entry in entries], [entry[key] for entry in entries]


def _is_finite(value: object) -> bool:
    """Whether a value is a finite number; a report in JSON has null for another."""
    return isinstance(value, int | float) and math.isfinite(value)


def _note(entry: Mapping[str, Any], key: str) -> str:
    broken = "; ".join(entry.get("violations", ()))
    what = f"the {entry['of']}" if "of" in entry else f"update {entry['update']}"
    return f"{what}: {float(entry[key]):.4g}{f' ({broken})' if broken else ''}"
