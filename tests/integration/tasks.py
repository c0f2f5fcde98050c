"""Functions that tests submit to a cluster. They travel as this module, so it imports nothing of the tests."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import ClassVar


def square(x: int) -> int:
    return x * x


def total(*numbers: float, scale: float = 1) -> float:
    return sum(numbers) * scale


def pid(_: object = None) -> int:
    return os.getpid()


def timer_slack_ns() -> int:
    """How late the kernel may end a wait of this process."""
    return int(Path("/proc/self/timerslack_ns").read_text())


def size(data: bytes) -> int:
    return len(data)


class Model:
    """A large value; each process counts those that it holds."""

    held: ClassVar[weakref.WeakSet["Model"]] = weakref.WeakSet()

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __setstate__(self, state: dict[str, bytes]) -> None:
        self.__dict__.update(state)
        self.held.add(self)


def models(model: Model, _: object) -> tuple[int, int]:
    """The first byte of this one, and how many this process holds."""
    return model.content[0], len(Model.held)


def length(first: object, second: object, *, number: int = 0) -> tuple[int, int]:
    """The bytes in its arguments, and its number; 13 is none."""
    if number == 13:
        raise ValueError(f"{number} is no number")
    return sum(len(value) for value in (first, second) if isinstance(value, bytes)), number


def length_of(number: int, value: bytes) -> tuple[int, int]:
    return len(value), number


def sleepy_length(value: bytes, number: int) -> tuple[int, int]:
    """Long enough for several to be under way at any time."""
    time.sleep(0.01)
    return len(value), number


def write_length(path: Path, value: bytes) -> None:
    path.write_text(str(len(value)))


def resident_bytes(pid: int | None = None) -> int:
    """The memory of a process, this one if none is named."""
    return int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_with(value: bytes) -> int:
    """The memory of the process, while it has a large value."""
    assert value[:4] == value[-4:]
    return resident_bytes()


def given(*args: object, **kwds: object) -> object:
    """Its arguments; a single one as it is."""
    return args[0] if len(args) == 1 and not kwds else (args, kwds)


def zeros(count: int) -> bytes:
    return bytes(count)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def variables() -> dict[str, str]:
    return dict(os.environ)


def mark_and_wait(directory: Path, name: str) -> int:
    """Leave a mark that this runs, wait for the file ``go``, leave one that it ended; the process it ran in."""
    (directory / f"{name}.began.{os.getpid()}.{time.monotonic_ns()}").touch()
    deadline = time.monotonic() + 60
    while not (directory / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.01)
    (directory / f"{name}.ended.{os.getpid()}.{time.monotonic_ns()}").touch()
    return os.getpid()


def mark_span(directory: Path, number: int, seconds: float) -> None:
    """Leave a mark with the time of the beginning and the end of this call."""
    begun = time.monotonic_ns()
    time.sleep(seconds)
    (directory / f"{number}.{begun}.{time.monotonic_ns()}").touch()


def divide(a: int, b: int) -> float:
    return a / b


class Unpicklable(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CannotBeRebuilt(Exception):
    """Pickles, but its class takes other arguments than it keeps."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


def raise_unpicklable() -> None:
    raise Unpicklable("it holds a lock")


def raise_cannot_be_rebuilt() -> None:
    raise CannotBeRebuilt(1, 2)


def raise_no_text() -> None:
    raise NoText


def raise_large(size_bytes: int) -> None:
    raise ValueError("x" * size_bytes)


def raise_with_cause() -> None:
    try:
        divide(1, 0)
    except ZeroDivisionError as error:
        raise LookupError("outer") from error


def return_lock() -> object:
    return threading.Lock()


class ExplodesAtReceiver:
    """Can be pickled, and raises where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _raise_in_receiver, ()


def _raise_in_receiver() -> None:
    raise ValueError("cannot be rebuilt here")


def return_exploding() -> object:
    return ExplodesAtReceiver()


class Own:
    """Rebuilt by a function, as what it returns."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return rebuilt_from, (self.number,)


def rebuilt_from(number: int) -> int:
    return 10 * number


def return_own(number: int) -> Own:
    return Own(number)


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def talk(text: str) -> int:
    print(text)
    print(text, "on stderr", file=sys.stderr)
    return len(text)


def exit_politely(status: object) -> None:
    sys.exit(status)  # type: ignore[arg-type]


def exit_at_once(status: int) -> None:
    os._exit(status)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def die_once(mark: Path) -> str:
    """Kill the process that runs this, unless ``mark`` is there already."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return "survived"
    os.kill(os.getpid(), signal.SIGKILL)
    return "not reached"


def start_process() -> None:
    multiprocessing.Process(target=square, args=(1,)).start()


def unpicklable_argument() -> object:
    return threading.Lock()


def raise_in_pickling(value: object) -> bytes:
    return pickle.dumps(value)


class Counter:
    """For bound methods."""

    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, x: int) -> int:
        return self.start + x

    def __call__(self, x: int) -> int:
        return self.start - x

    @classmethod
    def of(cls, x: int) -> "Counter":
        return cls(x)

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x


def kind(value: object) -> str:
    return type(value).__name__


def touch(path: Path) -> None:
    path.touch()


def fail_at_first(directory: Path, failures: int) -> int:
    """Raises so many times, and then returns which call this is; ``directory`` counts them."""
    directory.mkdir(exist_ok=True)
    call = len(list(directory.iterdir())) + 1
    (directory / str(call)).touch()
    if call <= failures:
        raise ConnectionError(f"call {call} failed")
    return call


def fail_once(directory: Path) -> int:
    return fail_at_first(directory, 1)


def note_run(directory: Path, number: int, deadly: bool) -> int:
    """Leave a mark that this ran; if it is ``deadly``, the first run ends its process."""
    first = not list(directory.glob(f"{number}.run.*"))
    (directory / f"{number}.run.{time.monotonic_ns()}").touch()
    time.sleep(0.005)
    if deadly and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def note_turn(task: tuple[str, int]) -> int:
    """Note in a file that a number's turn has come; the number."""
    path, number = task
    with open(path, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.003)
    return number
