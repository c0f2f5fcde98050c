"""examples/squares.py prints what its tutorial printed, on any pool."""

import random
import re
from collections.abc import Callable

import pytest

import multihost
import squares


class PoolAtOnce:
    """Runs each task when it is submitted."""

    def __enter__(self) -> "PoolAtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def apply_async(
        self,
        func: Callable[..., str],
        args: tuple[int],
        callback: Callable[[str], None],
        error_callback: Callable[[BaseException], None],
    ) -> None:
        try:
            answer = func(*args)
        except ZeroDivisionError as error:
            error_callback(error)
        else:
            callback(answer)


class NoMaster:
    def __init__(self) -> None:
        raise multihost.MultihostError("no answer from master:5000")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "WORK", 0)
    monkeypatch.setattr(multihost, "Pool", PoolAtOnce)


def test_ten_tasks_are_put_then_ten_results_come(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [3411, 0, 10000, 7, 7, 42, 1, 2, 3, 4]
    drawn = iter(numbers)
    monkeypatch.setattr(random, "randint", lambda low, high: next(drawn))
    assert squares.main() == 0
    lines = capsys.readouterr().out.splitlines()
    of_the_worker = [line for line in lines if line.startswith("run task")]
    of_the_job = [line for line in lines if not line.startswith("run task")]
    assert of_the_worker == [f"run task {n} * {n}..." for n in numbers]
    assert of_the_job == [
        *(f"Put task {n}..." for n in numbers),
        "Try get results...",
        *(f"Result: {n} * {n} = {n * n}" for n in numbers),
    ]


def test_numbers_are_random_from_0_to_10000(capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(1)
    assert squares.main() == 0
    numbers = [int(n) for n in re.findall(r"Put task (\d+)\.\.\.", capsys.readouterr().out)]
    assert len(numbers) == 10
    assert all(0 <= n <= 10000 for n in numbers)


def test_error_of_a_task_is_raised_instead_of_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "square", lambda n: n // 0)
    with pytest.raises(ZeroDivisionError):
        squares.main()


def test_error_of_the_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(multihost, "Pool", NoMaster)
    assert squares.main() == 1
    assert capsys.readouterr() == ("", "squares.py: no answer from master:5000\n")
