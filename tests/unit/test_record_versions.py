"""What the journal's records look like belongs to its version: a change of one asks for a change of the other."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from multihost.broker import snapshot
from multihost.broker.journal import VERSION, DiskJournal
from multihost.broker.ledger import COMMANDS
from multihost.broker.letters import DeadLetter
from multihost.broker.queues import Items
from multihost.broker.service import _replay
from multihost.errors import JournalUnusable
from tests.unit.brokers import make_core

# Until 0.1.0 is released, version 1 is what it will write: a change here is all that is needed. From then on a change
# here needs the next VERSION, and a migration.
RECORDS = {
    "begin": "session_id name limit lifetime family depth worker",
    "keep": "session_id blob_id content needs",
    "let_go": "session_id blob_ids",
    "end": "session_id",
    "name_job": "session_id name",
    "seal": "session_id items chunksize now",
    "use_job": "session_id now",
    "take_items": "session_id taken",
    "note_job_ended": "session_id tasks now since",
    "submit": "session_id first function_id plain payloads now",
    "acknowledge": "session_id sequences",
    "cancel": "session_id sequences running",
    "granted": "worker session_id sequences",
    "note_parts": "worker rows",
    "settle": "worker rows",
    "note_begun": "worker tokens",
    "retry": "worker token due",
    "release": "sequences",
    "expire": "sequences content",
    "lose": "worker token reason",
    "give_back": "worker tokens",
    "bury": "worker token reason now",
    "requeue": "number",
    "note_requeued": "number",
    "drop_letter": "number",
    "restore_counts": "counts next_token",
    "restore_session": "session_id next_sequence",
    "restore_outcomes": "session_id rows",
    "restore_parts": "session_id rows",
    "restore_tasks": "session_id function_id plain rows",
    "restore_lease": "worker token session_id sequence in_process",
    "restore_delay": "session_id sequence due",
    "restore_letters": "next_number",
    "restore_letter": "row",
}
LETTER = "number program session sequence item function_id payload options losses died_at state requeues error"


def test_records_are_those_of_the_version_that_the_journal_names() -> None:
    written = {**COMMANDS, **snapshot._RESTORERS}
    parameters = {name: " ".join([*inspect.signature(does).parameters][1:]) for name, does in written.items()}
    assert (VERSION, parameters) == (1, RECORDS)
    assert " ".join(field.name for field in fields(DeadLetter)) == LETTER


def test_records_of_shared_queues_are_those_of_the_version_that_the_journal_names() -> None:
    items = Items(lambda *record: None)
    for record in (("put", False, 1), ("put", True, b"2"), ("hand", 3), ("arrived", 3), ("unfinished", 2)):
        items.apply(*record)
    assert [row[0] for row in items.snapshot()] == ["put", "unfinished"]


@pytest.mark.parametrize("record", [("teleport", "s", 1), ("acknowledge", "nobody", [0]), ("begin",), None])
def test_start_with_a_record_that_this_program_cannot_apply_says_which_row_holds_it(
    tmp_path: Path, record: object
) -> None:
    written = DiskJournal(tmp_path, "normal")
    assert [*written.replay()] == []
    for each in (("begin", "s", "program", None, None, "s", 0, ""), record):
        written.append([each])
        written.commit()
    written.close()
    journal = DiskJournal(tmp_path, "normal")
    with pytest.raises(JournalUnusable, match="row 2 is whole, and holds what this multihost cannot apply"):
        _replay(journal, make_core(), str(tmp_path))
    journal.close()
