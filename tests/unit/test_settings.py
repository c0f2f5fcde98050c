"""multihost/settings.py: every variable, its default, what is refused and in which words; the authkey; the cores."""

import os
import re
import socket
import stat
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from multihost.errors import AuthkeyMissing, SettingsError
from multihost.settings import (
    COMPOSE_VARIABLES,
    DEFAULT_PORT,
    VARIABLES,
    Address,
    Settings,
    forget_authkeys,
    make_authkey,
    parse_address,
    read_authkey,
    read_previous_authkey,
    read_settings,
    unknown_variables,
    usable_cores,
)

# variable -> (field, a text, the value it means)
GOOD: dict[str, tuple[str, str, object]] = {
    "MULTIHOST_ADDRESS": ("address", "master:6000", Address("master", 6000)),
    "MULTIHOST_CONNECT_TIMEOUT": ("connect_timeout", "0.5", 0.5),
    "MULTIHOST_DRAIN_TIMEOUT": ("drain_timeout", "120", 120.0),
    "MULTIHOST_JOB_TTL": ("job_ttl", "3600", 3600.0),
    "MULTIHOST_JOURNAL": ("journal", " /data/my journal ", "/data/my journal"),
    "MULTIHOST_JOURNAL_SYNC": ("journal_sync", "Full", "full"),
    "MULTIHOST_LABELS": ("labels", "gpu, big,gpu", ("big", "gpu")),
    "MULTIHOST_LEASE_TIMEOUT": ("lease_timeout", " 2 ", 2.0),
    "MULTIHOST_LOG_FORMAT": ("log_format", "JSON", "json"),
    "MULTIHOST_LOG_LEVEL": ("log_level", "debug", "DEBUG"),
    "MULTIHOST_MAX_PAYLOAD": ("max_payload", "1024", 1024),
    "MULTIHOST_NAME": ("name", "rack 7", "rack 7"),
    "MULTIHOST_MAX_CONNECTIONS": ("max_connections", "50", 50),
    "MULTIHOST_MAX_DEAD_LETTERS": ("max_dead_letters", "0", 0),
    "MULTIHOST_MAX_DEAD_LETTER_BYTES": ("max_dead_letter_bytes", "4096", 4096),
    "MULTIHOST_MAX_RESULT_BYTES": ("max_result_bytes", "4096", 4096),
    "MULTIHOST_MAX_SESSIONS": ("max_sessions", "5", 5),
    "MULTIHOST_MAX_TASKS": ("max_tasks", "1000", 1000),
    "MULTIHOST_MAX_TASK_BYTES": ("max_task_bytes", "4096", 4096),
    "MULTIHOST_QUEUE_SIZE": ("queue_size", "0", 0),
    "MULTIHOST_SESSION_TIMEOUT": ("session_timeout", "1e3", 1000.0),
    "MULTIHOST_SLOTS": ("slots", "3", 3),
    "MULTIHOST_THREADS": ("threads", "16", 16),
    "MULTIHOST_TASK_MEMORY": ("task_memory", "512m", 512 << 20),
    "MULTIHOST_TASK_OUTPUT": ("task_output", "Hide", "hide"),
}
SECONDS = (
    "MULTIHOST_CONNECT_TIMEOUT",
    "MULTIHOST_DRAIN_TIMEOUT",
    "MULTIHOST_LEASE_TIMEOUT",
    "MULTIHOST_SESSION_TIMEOUT",
)
BAD: list[tuple[str, str, str]] = [
    *((name, text, "a number of seconds above zero") for name in SECONDS for text in ("0", "-1", "nan", "inf", "soon")),
    *(("MULTIHOST_SLOTS", text, "a whole number of at least 1") for text in ("0", "-1", "1.5", "two", "٣", "1_0")),
    *(("MULTIHOST_LABELS", text, "words separated by commas") for text in ("big gpu", "a,,b")),
    ("MULTIHOST_THREADS", "0", "a whole number of at least 1"),
    ("MULTIHOST_QUEUE_SIZE", "-1", "a whole number of at least 0"),
    ("MULTIHOST_MAX_DEAD_LETTERS", "many", "a whole number of at least 0"),
    ("MULTIHOST_MAX_TASKS", "0", "a whole number of at least 1"),
    ("MULTIHOST_MAX_TASK_BYTES", "1 GB", "a whole number of at least 1"),
    ("MULTIHOST_MAX_PAYLOAD", "1023", "a whole number of at least 1024"),
    ("MULTIHOST_LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ("MULTIHOST_JOURNAL_SYNC", "off", "one of normal, full"),
    ("MULTIHOST_LOG_FORMAT", "xml", "one of text, json"),
    *(("MULTIHOST_TASK_MEMORY", text, "0 or a number of bytes such as 512M") for text in ("5", "1.5G", "2GX", "9999T")),
    ("MULTIHOST_TASK_OUTPUT", "no", "one of show, hide"),
    ("MULTIHOST_ADDRESS", "master:http", "host:port, such as 192.0.2.10:5000"),
]


# --- variables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", GOOD)
def test_variable_sets_its_field_and_no_other(variable: str) -> None:
    field, text, value = GOOD[variable]
    plain, read = read_settings({}), read_settings({variable: text})
    assert getattr(read, field) == value
    others = [f.name for f in fields(Settings) if f.name != field]
    assert [getattr(read, name) for name in others] == [getattr(plain, name) for name in others]


def test_table_of_variables_names_every_field_and_what_is_read() -> None:
    read = {name: field for name, field in VARIABLES.items() if field}
    assert read == {name: field for name, (field, _, _) in GOOD.items()}
    assert set(read.values()) == {f.name for f in fields(Settings)}


def test_without_variables_the_defaults_hold_and_this_machine_gives_the_rest() -> None:
    assert read_settings({}) == Settings(slots=usable_cores(), name=socket.gethostname())


@pytest.mark.parametrize("variable", GOOD)
def test_empty_variable_counts_as_unset(variable: str) -> None:
    assert read_settings({variable: "  "}) == read_settings({})


@pytest.mark.parametrize(("variable", "text", "remedy"), BAD)
def test_bad_value_is_refused_with_its_variable_what_it_must_be_and_what_it_was(
    variable: str, text: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({variable: text})
    message = str(caught.value)
    assert message.startswith(f"{variable} must be {remedy}")
    assert repr(text) in message


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("master:5001", "master", 5001),
        ("master", "master", DEFAULT_PORT),
        ("192.0.2.10:65535", "192.0.2.10", 65535),
        ("192.0.2.10", "192.0.2.10", DEFAULT_PORT),
        ("[::1]:1", "::1", 1),
        ("[fe80::1%eth0]", "fe80::1%eth0", DEFAULT_PORT),
    ],
)
def test_address_is_read_and_written_in_the_same_form(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address.pair == (host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5000", "a port without a host"),
        (":5000", "names no host"),
        ("", "names no host"),
        ("master:", "a port from 1 to 65535"),
        ("master:0", "a port from 1 to 65535"),
        ("master:65536", "a port from 1 to 65535"),
        ("master:-1", "a port from 1 to 65535"),
        ("master:٣", "a port from 1 to 65535"),
        ("[::1]:x", "a port from 1 to 65535"),
        ("::1", "stands in brackets"),
        ("::1:5000", "stands in brackets"),
        ("[::1", "stands in brackets"),
        ("[::1]5000", "stands in brackets"),
    ],
)
def test_bad_address_is_refused_with_the_form_and_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=re.escape("the address must be host:port")) as caught:
        parse_address(text)
    assert says in str(caught.value)
    assert repr(text) in str(caught.value)


# --- the authkey -----------------------------------------------------------------------------------------------------


def test_key_comes_from_the_variable_as_it_is(tmp_path: Path) -> None:
    assert read_authkey({"MULTIHOST_AUTHKEY": "sésame"}, tmp_path / "none") == "sésame".encode()


def test_key_of_arbitrary_bytes_in_the_variable_is_these_bytes(tmp_path: Path) -> None:
    key = b"\xff\xfe key"
    assert read_authkey({"MULTIHOST_AUTHKEY": os.fsdecode(key)}, tmp_path / "none") == key


def test_key_comes_from_the_file_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xffsecret\n")
    assert read_authkey({"MULTIHOST_AUTHKEY_FILE": str(file)}, tmp_path / "none") == b"\xffsecret"


def test_variables_go_before_the_default_file(tmp_path: Path) -> None:
    default = tmp_path / "default"
    default.write_text("made by the master")
    assert read_authkey({"MULTIHOST_AUTHKEY": "given"}, default) == b"given"
    assert read_authkey({"MULTIHOST_AUTHKEY": ""}, default) == b"made by the master"


def test_both_variables_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MULTIHOST_AUTHKEY and MULTIHOST_AUTHKEY_FILE are both set; unset one"):
        read_authkey({"MULTIHOST_AUTHKEY": "k", "MULTIHOST_AUTHKEY_FILE": str(tmp_path / "key")})


def test_missing_key_is_an_error_that_names_both_variables(tmp_path: Path) -> None:
    with pytest.raises(AuthkeyMissing, match="set MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE") as caught:
        read_authkey({}, tmp_path / "none")
    assert isinstance(caught.value, SettingsError)


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_empty_key_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(SettingsError, match=f"MULTIHOST_AUTHKEY_FILE {re.escape(str(file))} is empty"):
        read_authkey({"MULTIHOST_AUTHKEY_FILE": str(file)})
    with pytest.raises(SettingsError, match="is empty"):
        read_authkey({}, default_file=file)


def test_previous_key_comes_from_a_variable_or_a_file_and_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "old"
    file.write_text("old\n")
    assert read_previous_authkey({}, b"new") is None
    assert read_previous_authkey({"MULTIHOST_AUTHKEY_PREVIOUS": "old"}, b"new") == b"old"
    assert read_previous_authkey({"MULTIHOST_AUTHKEY_PREVIOUS_FILE": str(file)}, b"new") == b"old"
    with pytest.raises(SettingsError, match="is the same key"):
        read_previous_authkey({"MULTIHOST_AUTHKEY_PREVIOUS": "new"}, b"new")
    with pytest.raises(SettingsError, match="MULTIHOST_AUTHKEY_PREVIOUS_FILE are both set"):
        read_previous_authkey(
            {"MULTIHOST_AUTHKEY_PREVIOUS": "old", "MULTIHOST_AUTHKEY_PREVIOUS_FILE": str(file)}, b"new"
        )


def test_no_key_is_left_in_the_environment_of_tasks() -> None:
    environ = dict.fromkeys([name for name in VARIABLES if "AUTHKEY" in name], "secret") | {"MULTIHOST_NAME": "w"}
    forget_authkeys(environ)
    assert environ == {"MULTIHOST_NAME": "w"}


def test_key_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "absent"
    with pytest.raises(SettingsError, match=f"{re.escape(str(file))} cannot be read by user .*No such file"):
        read_authkey({"MULTIHOST_AUTHKEY_FILE": str(file)})


def test_key_is_made_of_32_random_bytes_for_its_owner_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "deep" / "er" / "key", tmp_path / "key"
    make_authkey(one)
    make_authkey(two)
    assert re.fullmatch(r"[0-9a-f]{64}\n", one.read_text())
    assert one.read_text() != two.read_text()
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert os.listdir(one.parent) == ["key"]  # no temporary file is left


def test_key_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("of another master")
    make_authkey(file)
    assert file.read_text() == "of another master"
    assert os.listdir(tmp_path) == ["key"]


def test_key_that_cannot_be_made_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(SettingsError, match=r"none can be made in .*; set MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE"):
        make_authkey(tmp_path / "file" / "key")


# --- unknown names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MULTIHOST_SLOT", "MULTIHOST_SLOTS"),
        ("MULTIHOST_ADRESS", "MULTIHOST_ADDRESS"),
        ("MULTIHOST_AUTHKEYFILE", "MULTIHOST_AUTHKEY_FILE"),
        ("MULTIHOST_PUBLISHED", "MULTIHOST_PUBLISH"),
    ],
)
def test_unknown_name_is_a_warning_with_the_nearest_known_one(name: str, near: str) -> None:
    (warning,) = unknown_variables({name: "1"})
    assert warning.startswith(f"{name} is not a setting")
    assert warning.endswith(f"did you mean {near}?")


def test_known_and_foreign_names_are_no_warning() -> None:
    assert unknown_variables(dict.fromkeys([*VARIABLES, *COMPOSE_VARIABLES, "HOME", "XMULTIHOST_SLOT"], "1")) == []


def test_each_unknown_name_has_its_warning() -> None:
    assert len(unknown_variables({"MULTIHOST_B": "", "MULTIHOST_A": ""})) == 2


# --- cores -----------------------------------------------------------------------------------------------------------

Cgroup = Callable[[dict[str, str]], Path]


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    """Lays out a cgroup's files; the machine is one of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def make(files: dict[str, str]) -> Path:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 2), ("1000 100000", 1), ("3200000 100000", 8)],
)
def test_quota_of_a_cgroup_cuts_the_cores_rounded_up(cgroup: Cgroup, quota: str, cores: int) -> None:
    assert usable_cores(cgroup({"cpu.max": f"{quota}\n"})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 3), ("1", 1)])
def test_quota_of_a_first_version_cgroup_cuts_them_too(cgroup: Cgroup, quota: str, cores: int) -> None:
    files = {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(cgroup(files)) == cores


@pytest.mark.parametrize("files", [{}, {"cpu.max": ""}, {"cpu.max": "much 100000"}])
def test_without_a_readable_quota_the_affinity_counts(cgroup: Cgroup, files: dict[str, str]) -> None:
    assert usable_cores(cgroup(files)) == 8
