"""What benchmarks found, as a page of Markdown: targets first, then every ratio and series."""

from collections.abc import Iterable, Mapping
from typing import Any

from figures import short

_OF_A_MOMENT = ("date", "load_before")
_ABOUT = """\
Medians, with the middle half of what was measured in parentheses; both sides of a ratio are of one run,
measured in turn. From where to where, and what would make it unfair: [README.md](../README.md).
"""


def markdown(run: Mapping[str, Any], *, with_chart: bool = True) -> str:
    """The page of a run; the chart is the picture beside it, with the run's date for a name."""
    figures = {name: each for name, each in run["benchmarks"].items() if not each.get("problem")}
    common = _common(figures.values())
    chart = ["", f"![ratios to stock Ray and to limits]({run['date']}.png)"] if with_chart else []
    lines = [f"# Benchmarks of {run['date']}", "", _circumstances(common), *chart, "", _ABOUT]
    lines += _targets(figures)
    lines += [
        f"- **{name} failed**: {each['problem'].splitlines()[0]}"
        for name, each in run["benchmarks"].items()
        if each.get("problem")
    ]
    for name, each in figures.items():
        own = {key: value for key, value in each["circumstances"].items() if key not in common}
        lines += ["", f"## {name}", "", each["about"]]
        lines += ["", _circumstances(own)] if own else []
        lines += _ratios(each) + _series(each)
    return "\n".join(lines) + "\n"


def _common(all_figures: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Circumstances that every benchmark tells, and the same way."""
    told = [each["circumstances"] for each in all_figures]
    return {
        key: value
        for key, value in (told[0] if told else {}).items()
        if key not in _OF_A_MOMENT and all(each.get(key) == value for each in told)
    }


def _circumstances(told: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in told.items())


def amount(number: float, unit: str) -> str:
    """A figure with its unit; milliseconds that are many as seconds."""
    return f"{short(number / 1000)} s" if unit == "ms" and number >= 1000 else f"{short(number)} {unit}"


def spread(series: Mapping[str, Any]) -> str:
    """A median and the middle half."""
    low, high = (amount(end, series["unit"]) for end in series["quartiles"])
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    return f"{amount(series['median'], series['unit'])} ({low} - {high})"


def label(what: str) -> str:
    """What a ratio is of, without its sides: of ``topic: one side to the other, detail`` topic and detail."""
    topic, colon, sides = what.partition(":")
    _, comma, detail = sides.partition(",")
    return f"{topic}{comma}{detail}".strip() if colon else what.strip()


def _targets(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| what | ours | beside it | ratio | target | |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    notes = []
    for benchmark, each in figures.items():
        for name, target in each["targets"].items():
            if target["found"] is None:
                continue
            lines.append(f"| {benchmark}: {_target_row(name, target, each)}")
            if not target["met"] and target["limit"]:
                notes.append(f"- *{benchmark}: {_what(name, each)}*: {target['limit']}")
    return [*lines, *([""] if notes else []), *notes]


def _what(name: str, figures: Mapping[str, Any]) -> str:
    ratio = figures["ratios"].get(name)
    return label(ratio["what"]) if ratio else figures["series"][name]["what"].strip()


def _target_row(name: str, target: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    series, ratio = figures["series"], figures["ratios"].get(name)
    word, bound = ("≤", target["most"]) if target["most"] is not None else ("≥", target["least"])
    cells = [_what(name, figures), spread(series[target["ours"]])]
    if ratio:
        beside = (
            f"{target['of'] or series[target['other']]['what'].strip()} {spread(series[target['other']])}"
        )
        cells += [beside, _times(ratio), f"{word} {bound:g}"]
    else:
        cells += ["", "", f"{word} {bound:g} {series[name]['unit']}"]
    cells.append("met" if target["met"] else "**missed**")
    return f"{' | '.join(cells)} |"


def _times(ratio: Mapping[str, Any]) -> str:
    sides = ratio["what"].partition(":")[2].partition(",")[0].strip()
    return f"{short(ratio['ratio'])}{f' ({sides})' if sides else ''}"


def _ratios(figures: Mapping[str, Any]) -> list[str]:
    if not figures["ratios"]:
        return []
    lines = ["", "| ratio of medians | | between |", "| --- | ---: | ---: |"]
    for each in figures["ratios"].values():
        low, high = map(short, each["spread"])
        lines.append(f"| {each['what']} | {short(each['ratio'])} | {low} and {high} |")
    return lines


def _series(figures: Mapping[str, Any]) -> list[str]:
    lines = ["", "| measured | median | middle half | min | max | n |", "| --- |" + " ---: |" * 5]
    for each in figures["series"].values():
        unit = each["unit"]
        low, high = (amount(end, unit) for end in each["quartiles"])
        ends = (amount(each[name], unit) for name in ("min", "max"))
        cells = [each["what"].strip(), amount(each["median"], unit), f"{low} to {high}", *ends]
        lines.append(f"| {' | '.join(cells)} | {len(each['values'])} |")
    return lines
