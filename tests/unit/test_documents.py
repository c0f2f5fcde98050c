"""The documents agree with the code: links lead somewhere, and the settings table tells what settings.py reads."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from multihost.settings import (
    COMPOSE_VARIABLES,
    DEFAULT_AUTHKEY_FILE,
    DEFAULT_PORT,
    VARIABLES,
    ExitCode,
    Settings,
)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(document: Path) -> Iterator[tuple[str, str]]:
    """(path, fragment) of each link that leads into this repository."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, fragment = target.partition("#")
            yield path, fragment


def anchors(document: Path) -> set[str]:
    """What a fragment may name: the headings, as they are addressed."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_something(document: Path) -> None:
    for path, fragment in links(document):
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {path}, which is not there"
        if fragment:
            assert fragment in anchors(target), f"{document.name} links to #{fragment}, which {target.name} has not"


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    for _ in DOCUMENTS:
        found = {(page.parent / path).resolve() for page in reached for path, _ in links(page) if path.endswith(".md")}
        reached |= found & {*DOCUMENTS}
    assert reached == {*DOCUMENTS}


def settings_table() -> dict[str, str]:
    """Variable -> documented default."""
    rows = re.findall(r"^\| `(MULTIHOST_\w+)` \| ([^|]+?) \|", README, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a variable stands in the table twice"
    return dict(rows)


def test_the_settings_table_lists_exactly_the_variables_that_are_read() -> None:
    assert {*settings_table()} == {*VARIABLES, *COMPOSE_VARIABLES}


def test_the_settings_table_gives_the_defaults_of_the_code() -> None:
    plain = Settings()
    of_code = {
        variable: f"{getattr(plain, field):g}" if isinstance(getattr(plain, field), float) else getattr(plain, field)
        for variable, field in VARIABLES.items()
        # What these are by default depends on the machine, or on which program asks.
        if field and variable not in ("MULTIHOST_ADDRESS", "MULTIHOST_LABELS", "MULTIHOST_NAME", "MULTIHOST_SLOTS")
    }
    table = settings_table()
    assert {variable: table[variable] for variable in of_code} == {name: str(value) for name, value in of_code.items()}
    assert (plain.labels, table["MULTIHOST_LABELS"]) == ((), "none")
    assert f"`127.0.0.1:{DEFAULT_PORT}`" in table["MULTIHOST_ADDRESS"]
    assert table["MULTIHOST_AUTHKEY_FILE"] == f"`{DEFAULT_AUTHKEY_FILE}`"


def test_the_compose_file_passes_every_setting_on_and_has_the_documented_defaults() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    used = {*re.findall(r"MULTIHOST_[A-Z_]+", compose)}
    # The name is the container's host name, different in each.
    assert used == {*VARIABLES, *COMPOSE_VARIABLES} - {"MULTIHOST_NAME"}
    assert f"${{MULTIHOST_PUBLISH:-{settings_table()['MULTIHOST_PUBLISH'].strip('`')}}}:{DEFAULT_PORT}" in compose


def test_every_service_of_the_compose_file_is_bounded_in_processes_and_log() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    shared = compose[compose.index("x-service:") : compose.index("x-settings:")]
    assert f"pids_limit: ${{MULTIHOST_PIDS:-{settings_table()['MULTIHOST_PIDS']}}}\n" in shared
    assert f"/tmp:size=${{MULTIHOST_TMP:-{settings_table()['MULTIHOST_TMP']}}}" in shared
    assert re.search(r"logging: \{driver: local, options: \{max-size: \w+, max-file: \"\d+\"\}\}", shared)
    services = compose[compose.index("\nservices:") : compose.index("\nnetworks:")]
    names = re.findall(r"^  \w+:$", services, re.MULTILINE)
    assert len(names) == services.count("<<: *service\n") > 0
    assert "pids_limit" not in services
    assert "logging" not in services


def test_the_readme_tells_every_exit_code() -> None:
    (sentence,) = re.findall(r"The programs exit with 0 .*?\n\n", README, re.DOTALL)
    assert {int(code) for code in re.findall(r"\b\d+\b", sentence)} == {*map(int, ExitCode)}


def test_the_tests_that_the_page_about_reliability_names_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
    assert text.count("::") == len(named) > 100
    missing = {
        (file, test)
        for file, test in named
        if not re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    }
    assert not missing


def test_each_fault_is_shown_by_a_test_or_said_to_be_missing() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| ?(\d*) \| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", text, re.MULTILINE)
    numbers = [number for number, *_ in rows if number]
    assert len(numbers) > 50
    assert len({*numbers}) == len(numbers)
    unshown = {fault for _, fault, happens, tests in rows if "not yet" not in happens.lower() and "::" not in tests}
    assert unshown == {"fault"}, "the heads alone"
