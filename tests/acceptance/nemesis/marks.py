"""The marks that tasks have left, read as runs."""

from collections.abc import Iterable

from tests.acceptance.nemesis.checker import Run


def read(lines: Iterable[str]) -> list[Run]:
    """The runs of which ``lines`` of tasks.py tell. A line that is cut short, as its writer was killed, is none."""
    began: dict[str, tuple[int, str]] = {}
    ended: set[str] = set()
    for line in lines:
        match line.split():
            case ["began", number, run]:
                began[run] = int(number), run.rpartition("-")[0]
            case ["ended", number, run]:
                began.setdefault(run, (int(number), run.rpartition("-")[0]))
                ended.add(run)
    return [Run(task, run, worker, run in ended) for run, (task, worker) in began.items()]
