"""From the rounds' figures to a table: medians, ranges, ratios, Markdown. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Rounds = dict[str, list[float]]  # figure -> its values, one of each round


@dataclass
class Row:
    """What one system has shown."""

    title: str
    rounds: Rounds = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # measurement -> why there is no figure
    absent: str = ""  # why it was not measured at all

    def add(self, figures: Mapping[str, float]) -> None:
        """Another round's figures."""
        for name, value in figures.items():
            self.rounds.setdefault(name, []).append(value)

    def median(self, figure: str) -> float | None:
        values = self.rounds.get(figure)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Column:
    """Figures that stand in one cell, with slashes between."""

    title: str
    measure: str  # what a cell without a figure is looked up by in ``Row.missing``
    figures: tuple[str, ...]
    form: str = ",.0f"
    compared: bool = True  # whether a ratio to the reference means something
    less_is_better: bool = False


COLUMNS = (
    Column("one by one, tasks/s", "one by one", ("one by one",)),
    Column("map chunksize=1, tasks/s", "map chunksize=1", ("map chunksize=1",)),
    Column("map default chunks, tasks/s", "map default chunks", ("map default chunks",)),
    Column("round trip p50 / p99, µs", "round trip", ("round trip p50", "round trip p99"), less_is_better=True),
    Column("sleeps of 1 / 10 / 100 ms, efficiency", "sleeps", ("sleep 1 ms", "sleep 10 ms", "sleep 100 ms"), ".3f"),
    Column("10 MB argument / result, MB/s", "10 MB argument", ("10 MB argument", "10 MB result")),
    Column(
        "bytes per queued task, master + client",
        "queued",
        ("queued master", "queued client"),
        compared=False,
        less_is_better=True,
    ),
    Column("cold start, s", "cold start", ("cold start",), ".2f", less_is_better=True),
    Column(
        "CPU a task, µs: client / master / workers",
        "one by one",
        ("cpu client, µs", "cpu master, µs", "cpu workers, µs"),
        ".1f",
        compared=False,
        less_is_better=True,
    ),
)


def table(rows: Sequence[Row]) -> str:
    """The medians of all systems as a Markdown table, with footnotes for what is missing."""
    notes: list[str] = []
    columns = [column for column in COLUMNS if _measured(rows, column)]
    lines = [_line(["", *(column.title for column in columns)]), "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        if row.absent:
            lines.append(_line([row.title + _mark(row.absent, notes), *["-"] * len(columns)]))
        else:
            lines.append(_line([row.title, *(_cell(row, column, notes) for column in columns)]))
    return "\n".join([*lines, "", *(f"[{number}] {note}.  " for number, note in enumerate(notes, 1))]).rstrip() + "\n"


def ratios(rows: Sequence[Row], reference: Row) -> str:
    """Each system's medians divided by the reference's; for times, too, so that there less than 1 is better."""
    compared = [column for column in COLUMNS if column.compared and _measured(rows, column)]
    figures = [(figure, column.less_is_better) for column in compared for figure in column.figures]
    titles = [f"{figure}{' (less is better)' if less else ''}" for figure, less in figures]
    lines = [_line([f"ratio to {reference.title}", *titles]), "|---" * (len(figures) + 1) + "|"]
    lines += [
        _line([row.title, *(_ratio(row, reference, figure) for figure, _ in figures)])
        for row in rows
        if row is not reference and not row.absent
    ]
    return "\n".join(lines) + "\n"


def ranges(rows: Sequence[Row]) -> str:
    """How far the rounds of each system lay apart: the least and the greatest value, in per cent of the median."""
    figures = [figure for column in COLUMNS if _measured(rows, column) for figure in column.figures]
    lines = [_line(["least .. greatest, % of the median", *figures]), "|---" * (len(figures) + 1) + "|"]
    lines += [_line([row.title, *(_range(row.rounds.get(figure)) for figure in figures)]) for row in rows if row.rounds]
    return "\n".join(lines) + "\n"


def others(rows: Sequence[Row]) -> str:
    """The medians of what has no column of its own, a line for each; nothing if there is none."""
    known = {figure for column in COLUMNS for figure in column.figures}
    names = dict.fromkeys(figure for row in rows for figure in row.rounds if figure not in known)
    if not names:
        return ""
    lines = [_line(["", *(row.title for row in rows)]), "|---" * (len(rows) + 1) + "|"]
    lines += [_line([name, *(plain(row.median(name)) for row in rows)]) for name in names]
    return "\n".join(lines) + "\n"


def ratio_of_rounds(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median of the ratios of rounds that ran next to each other; what slows the machine down falls on both."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b]
    return statistics.median(pairs) if pairs else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _measured(rows: Sequence[Row], column: Column) -> bool:
    return any(figure in row.rounds for row in rows for figure in column.figures)


def plain(value: float | None) -> str:
    """A figure of any size, to three places."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(row: Row, column: Column, notes: list[str]) -> str:
    medians = [row.median(figure) for figure in column.figures]
    text = " / ".join("-" if median is None else format(median, column.form) for median in medians)
    if all(median is None for median in medians):
        text = "-"
    reasons = [row.missing[name] for name in dict.fromkeys((column.measure, *column.figures)) if name in row.missing]
    return text + "".join(_mark(reason, notes) for reason in reasons)


def _mark(note: str, notes: list[str]) -> str:
    note = note.rstrip(".")
    if note not in notes:
        notes.append(note)
    return f" [{notes.index(note) + 1}]"


def _ratio(row: Row, reference: Row, figure: str) -> str:
    ratio = ratio_of_rounds(row.rounds.get(figure, ()), reference.rounds.get(figure, ()))
    return "-" if ratio is None else f"{ratio:.2f}"


def _range(values: Sequence[float] | None) -> str:
    if not values or not (middle := statistics.median(values)):
        return "-"
    return f"{min(values) / middle * 100:.0f}..{max(values) / middle * 100:.0f}"
