"""multihost/errors.py: every error crosses the wire whole."""

import multiprocessing
import pickle
from collections.abc import Iterator

import pytest

import multihost
from multihost import errors
from multihost.deaths import Death
from multihost.errors import MultihostError, RemoteTraceback

EXAMPLES: dict[type[BaseException], BaseException] = {
    type(example): example
    for example in (
        MultihostError("what happened"),
        errors.SettingsError("MULTIHOST_SLOTS must be a whole number of at least 1, got '0'"),
        errors.AuthkeyMissing("no authkey"),
        errors.MasterUnreachable("master:5000", 60.0, "connection refused"),
        errors.ClientClosed(),
        errors.ForkedClient(100, 101),
        errors.ProtocolError("a frame claims too much"),
        errors.TaskTooLarge("the arguments of a task", 2048, 1024),
        errors.ResultTooLarge(2048, 1024),
        errors.TaskTimeout(2.5, "w1", True, "in line 7", "line 6"),
        errors.TaskExpired(60.0),
        errors.TaskOutOfMemory(64 << 20, "w1", True, 70 << 20, "", "line 6"),
        errors.ClusterFull("tasks", 1000, "MULTIHOST_MAX_TASKS"),
        errors.JobError("squares"),
        errors.JobExists("squares"),
        errors.JobUnknown("squares"),
        errors.JobBusy("squares"),
        errors.JobIncomplete("squares"),
        errors.WorkerDied(["worker a was lost", Death("killed by SIGKILL", worker="b", output="line 6").encode()]),
        errors.CodeNotFound("numpy", "worker-3", "No module named 'numpy'"),
        errors.PythonMismatch("3.11", "3.13"),
        errors.ResultNotRebuilt("ModuleNotFoundError('numpy')", b"pickle", 3, "3.13"),
        errors.JournalError("what happened"),
        errors.JournalFull("/data/journal", "No space left on device"),
        errors.JournalDamaged("/data/journal", 7, 4096, "its content does not match its checksum", 9),
        errors.JournalLocked("/data", "process 7 on host master"),
        errors.JournalUnusable("/data", "there is no such directory"),
        errors.RemoteError("Locked", "cannot be pickled"),
        RemoteTraceback("Traceback (most recent call last):\n"),
    )
}


def _subclasses(of: type[BaseException]) -> Iterator[type[BaseException]]:
    yield of
    for subclass in of.__subclasses__():
        if subclass.__module__.partition(".")[0] == multihost.__name__:
            yield from _subclasses(subclass)


ALL = [*dict.fromkeys(_subclasses(MultihostError)), RemoteTraceback]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_error_keeps_type_fields_and_text_across_the_wire(kind: type[BaseException], protocol: int) -> None:
    assert kind in EXAMPLES, f"{kind.__name__} needs an example in this test's table"
    error = EXAMPLES[kind]
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert copy.args == error.args
    assert str(copy) == str(error) != ""


def test_errors_are_also_what_the_standard_library_would_raise() -> None:
    assert issubclass(errors.AuthkeyMissing, multiprocessing.AuthenticationError)
    assert issubclass(errors.MasterUnreachable, ConnectionError)
    assert issubclass(errors.ProtocolError, ConnectionError)
    assert issubclass(errors.CodeNotFound, ImportError)
    assert issubclass(errors.SettingsError, ValueError)


def test_unreachable_master_is_no_error_number() -> None:
    error = EXAMPLES[errors.MasterUnreachable]
    assert isinstance(error, OSError)
    assert error.errno is None
    assert "master:5000 within 60 s (connection refused)" in str(error)
    assert "MULTIHOST_ADDRESS" in str(error)


def test_missing_module_is_named_where_import_error_has_it() -> None:
    error = EXAMPLES[errors.CodeNotFound]
    assert isinstance(error, ImportError)
    assert error.name == "numpy"
    assert "worker worker-3 cannot import numpy" in str(error)


def test_dead_letter_tells_the_reason_of_each_delivery() -> None:
    text = str(EXAMPLES[errors.WorkerDied])
    assert "after 2 deliveries" in text
    assert "delivery 1: worker a was lost; delivery 2: killed by SIGKILL on worker b" in text
    assert text.endswith("Its last output:\nline 6")


def test_damaged_journal_tells_the_place_what_is_whole_and_the_way_out() -> None:
    text = str(EXAMPLES[errors.JournalDamaged])
    assert "/data/journal is damaged at row 7 of 9, byte 4096: its content does not match" in text
    assert "6 rows before it are whole" in text
    assert "python -m multihost.broker.repair" in text
    text = str(errors.JournalDamaged("/data/journal", 0, 0, "its head is damaged", -1))
    assert "at row 0, byte 0" in text
    assert "no row was read yet" in text


@pytest.mark.parametrize("kind", [errors.TaskTooLarge, errors.ResultTooLarge])
def test_what_is_too_large_tells_sizes_and_the_way_out(kind: type[BaseException]) -> None:
    text = str(EXAMPLES[kind])
    assert "2,048 bytes" in text
    assert "1,024" in text
    assert "shared disk" in text
    assert "MULTIHOST_MAX_PAYLOAD" in text
