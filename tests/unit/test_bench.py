"""The benchmarks' own arithmetic: a wrong ratio or a lost footnote would be believed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from figures import COLUMNS, Row, others, ranges, ratio_of_rounds, ratios, table
from goals import GOALS, Goal, goals, scale_row
from measures import MEASURES, Effort, overtaken
from reports import BEGIN, END, Plan, inserted, markdown, report, version
from suite import Suite
from systems import QUICK, REFERENCE, SYSTEMS
from venvs import CannotInstall

BENCH = Path(__file__).resolve().parents[2] / "bench"
WHERE = {"date": "d", "commit": "c", "python": "3", "cores": 2, "cpu": "a cpu", "load before": 0.0, "load after": 0.0}


def row(title: str, **rounds: list[float]) -> Row:
    return Row(title, {name.replace("_", " "): values for name, values in rounds.items()})


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


# --- figures -------------------------------------------------------------------------------------------------------


def test_a_table_has_the_median_of_the_rounds() -> None:
    head, _, line = table([row("ours", one_by_one=[100.0, 5000.0, 300.0])]).splitlines()
    assert cells(head) == ["", "one by one, tasks/s"]
    assert cells(line) == ["ours", "300"]


def test_figures_that_belong_together_share_a_cell() -> None:
    lines = table([row("ours", sleep_1_ms=[0.5], sleep_10_ms=[0.75])]).splitlines()
    assert cells(lines[2]) == ["ours", "0.500 / 0.750 / -"]


def test_what_no_system_has_measured_has_no_column() -> None:
    assert "cold start" not in table([row("ours", one_by_one=[1.0])])


def test_a_missing_figure_is_a_dash_with_a_footnote() -> None:
    one, two = row("one", one_by_one=[1.0]), row("two", one_by_one=[1.0])
    three = Row("three", {"map chunksize=1": [1.0], "one by one": [1.0]})
    one.missing["map chunksize=1"] = two.missing["map chunksize=1"] = "it has no map."
    text = table([one, two, three])
    assert [cells(line)[2] for line in text.splitlines()[2:5]] == ["- [1]", "- [1]", "1"]
    assert text.endswith("\n[1] it has no map.\n"), "the same reason is told once"


def test_a_system_that_is_not_there_is_a_row_that_says_why() -> None:
    absent = Row("another", absent="pip failed: no such package")
    lines = table([row("ours", one_by_one=[1.0]), absent]).splitlines()
    assert cells(lines[3]) == ["another [1]", "-"]
    assert lines[-1].startswith("[1] pip failed: no such package.")


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine was twice as slow in the second round, for both alike.
    assert ratio_of_rounds([200.0, 100.0, 200.0], [100.0, 50.0, 100.0]) == 2.0
    assert ratio_of_rounds([], [1.0]) is None
    assert ratio_of_rounds([1.0], [0.0]) is None


def test_a_round_that_failed_leaves_the_others_compared_with_their_neighbours() -> None:
    assert ratio_of_rounds([300.0], [100.0, 1.0]) == 3.0


def test_ratios_leave_out_the_reference_and_what_is_absent() -> None:
    reference = row("Pool", one_by_one=[50.0])
    lines = ratios([row("ours", one_by_one=[100.0]), reference, Row("gone", absent="why")], reference).splitlines()
    assert [cells(line) for line in lines[2:]] == [["ours", "2.00"]]


def test_ratios_of_times_say_that_less_is_better() -> None:
    reference = row("Pool", round_trip_p50=[50.0])
    head = ratios([row("ours", round_trip_p50=[75.0]), reference], reference).splitlines()[0]
    assert "round trip p50 (less is better)" in cells(head)


def test_ranges_are_in_per_cent_of_the_median() -> None:
    line = ranges([row("ours", one_by_one=[90.0, 100.0, 120.0])]).splitlines()[2]
    assert cells(line) == ["ours", "90..120"]


def test_a_figure_without_a_column_is_told_in_a_line_of_its_own() -> None:
    text = others([row("ours", overtaken=[0.0123]), row("theirs", one_by_one=[1.0])])
    assert cells(text.splitlines()[2]) == ["overtaken", "0.0123", "-"]
    assert others([row("theirs", one_by_one=[1.0])]) == ""


# --- goals ---------------------------------------------------------------------------------------------------------


def test_a_goal_is_met_by_the_ratio_of_rounds() -> None:
    goal = Goal("one by one", least=2.5, beside="pool")
    assert goal.wanted == "at least 2.5 x pool"
    assert goal.found({"multihost": row("m", one_by_one=[30.0]), "pool": row("p", one_by_one=[10.0])}) == 3.0
    assert (goal.met(2.5), goal.met(2.4)) == (True, False)


def test_a_goal_without_its_figures_says_nothing() -> None:
    rows = {"multihost": row("m", one_by_one=[30.0])}
    assert Goal("one by one", least=2.5, beside="pool").found(rows) is None
    assert Goal("cold start", most=0.4).found({"pool": row("p")}) is None
    assert goals(rows) == ""


def test_goals_tell_what_was_wanted_and_found() -> None:
    text = goals({"multihost": row("m", sleep_1_ms=[0.9], cold_start=[0.5])})
    assert [cells(line) for line in text.splitlines()[2:]] == [
        ["sleep 1 ms", "at least 0.88", "0.9", "yes"],
        ["cold start", "at most 0.4", "0.5", "no"],
    ]


def test_a_figure_of_scale_stands_beside_its_goal() -> None:
    assert cells(scale_row("many / few", 0.95)) == ["many / few", "0.95", "at least 0.9", "yes"]
    name = "1,000,000 waiting: bytes a task in the master"
    assert cells(scale_row(name, 401.0)) == [name, "401", "at most 400", "no"]
    assert cells(scale_row("without a goal", 1.0)) == ["without a goal", "1", "", ""]


def test_every_goal_is_of_a_figure_in_the_table() -> None:
    assert {goal.figure for goal in GOALS} <= {figure for column in COLUMNS for figure in column.figures}


# --- measures ------------------------------------------------------------------------------------------------------


def at_a_rate(tasks_per_second: float, counts: list[int]) -> Callable[[int], float]:
    def run(count: int) -> float:
        counts.append(count)
        return tasks_per_second

    return run


@pytest.mark.parametrize(("rate", "expected"), [(5000.0, 500), (1e9, 1000), (100.0, 10)])
def test_a_round_has_as_many_tasks_as_take_its_time(rate: float, expected: int) -> None:
    assert Effort(0.1, 1000).tasks("a name", at_a_rate(rate, [])) == expected


def test_the_number_of_tasks_is_found_once() -> None:
    counts: list[int] = []
    effort = Effort(0.1, 1000)
    first = effort.tasks("a name", at_a_rate(5000.0, counts))
    tried = len(counts)
    assert effort.tasks("a name", at_a_rate(1.0, counts)) == first
    assert len(counts) == tried


def test_all_workers_have_as_many_tasks() -> None:
    assert Effort(1.0, 1000).tasks("a name", at_a_rate(19.0, []), multiple=4) == 16
    assert Effort(1.0, 1000).tasks("a slow one", at_a_rate(0.5, []), multiple=4) == 4
    assert Effort(1.0, 1000).tasks("one with a least", at_a_rate(19.0, []), multiple=4, least=40) == 40


def test_a_task_is_overtaken_by_later_ones_that_began_before_it() -> None:
    assert overtaken([1.0, 2.0, 3.0]) == [0.0, 0.0, 0.0]
    assert overtaken([1.0, 9.0, 2.0, 3.0]) == [0.0, 7.0, 0.0, 0.0]


# --- systems and reports -------------------------------------------------------------------------------------------


def test_every_system_has_its_module_and_its_requirements() -> None:
    for spec in SYSTEMS.values():
        assert (BENCH / "peers" / f"{spec.module}.py").is_file()
        assert not spec.cold or (BENCH / "peers" / f"{spec.cold}.py").is_file()
        assert not spec.venv or re.fullmatch(r"\d[\w.]*", version(spec))
    assert {REFERENCE, *QUICK} <= set(SYSTEMS)


@pytest.mark.parametrize("file", sorted((BENCH / "requirements").iterdir()), ids=lambda path: path.name)
def test_every_requirement_is_pinned(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_every_column_is_of_something_that_is_measured() -> None:
    assert {column.measure for column in COLUMNS} <= {*MEASURES, "cold start"}


def test_a_system_that_cannot_be_installed_is_a_row_that_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str) -> Path:
        raise CannotInstall(f"pip failed: no package index for {name}")

    monkeypatch.setattr("venvs.python_of", refuse)
    suite = Suite(Plan(("ray", "dask"), ("one by one",), rounds=1, workers=2, seconds=1.0), tmp_path)
    suite.run()
    assert suite.rows["ray"].absent == "pip failed: no package index for ray"
    assert suite.rows["dask"].absent == "pip failed: no package index for dask"


def test_a_report_keeps_every_round_and_every_reason() -> None:
    plan = Plan(("multihost", "pool"), ("one by one",), rounds=2, workers=2, seconds=1.0)
    rows = {"multihost": row("multihost", one_by_one=[3.0, 4.0]), "pool": row("Pool", one_by_one=[1.0, 2.0])}
    rows["pool"].missing["queued"] = "why"
    rows["pool"].add({"overtaken, s": 0.5})
    run = json.loads(json.dumps(report(plan, rows, WHERE)))
    assert run["systems"]["multihost"]["rounds"] == {"one by one": [3.0, 4.0]}
    assert run["systems"]["pool"]["missing"] == {"queued": "why"}
    text = markdown(run)
    assert "| multihost | 2.50 |" in text, "the median of 3 and 2"
    assert "| overtaken, s | - | 0.5 |" in text


def test_a_document_has_the_figures_between_its_marks() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert inserted(document, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place for the figures"):
        inserted("nothing", "new")
