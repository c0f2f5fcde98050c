"""What a watcher asks of the dead letters and does with them, and how many of them are kept.

A requeued letter is a task again, of a session that is the master's own and ends with it. No program gets its result:
the one that made the call was told ``WorkerDied`` long ago.
"""

from collections.abc import Callable

from multihost.broker.bounds import Bounds
from multihost.broker.events import Effect, Note, Send
from multihost.broker.ledger import Ledger
from multihost.broker.letters import DeadLetter
from multihost.broker.members import Link, Session
from multihost.broker.workers import Workers
from multihost.deaths import words
from multihost.payload import name_in

# The options that a requeued task keeps; when it was to begin, or not to begin any more, has passed.
_KEPT = ("retries", "backoff", "priority", "labels", "timeout", "memory", "name")
_NO_LETTER = "there is no such dead letter"


class DeadLetters:
    """See the module.

    Args:
        end: ends a session.
    """

    def __init__(
        self, ledger: Ledger, workers: Workers, bounds: Bounds, end: Callable[[Session], list[Effect]]
    ) -> None:
        self._ledger, self._workers, self._bounds, self._end = ledger, workers, bounds, end

    # --- what watchers say -------------------------------------------------------------------------------------

    def tell(self, link: Link) -> list[Effect]:
        return [Send(link, ("dead_letters", [self._told(letter) for letter in self._ledger.letters]))]

    def show(self, link: Link, number: int) -> list[Effect]:
        letter = self._ledger.letters.get(number)
        return [Send(link, ("dead_letter", None if letter is None else self._told_all(letter)))]

    def save(self, link: Link, number: int) -> list[Effect]:
        """Its code, and then the task: each may be large, and so is a message of its own."""
        if (letter := self._ledger.letters.get(number)) is None:
            return [Send(link, ("dead_task", None))]
        blobs = [
            (blob_id, content, self._ledger.blobs.needs(blob_id))
            for blob_id, content in self._ledger.blobs.missing(letter.function_id, set())
        ]
        task = self._told_all(letter) | {"function_id": letter.function_id, "payload": letter.payload}
        return [*(Send(link, ("dead_code", *blob)) for blob in blobs), Send(link, ("dead_task", task))]

    def drop(self, link: Link, numbers: list[int]) -> list[Effect]:
        """One that was requeued is cancelled: it may wait for a worker that never comes."""
        effects: list[Effect] = []
        rows = []
        for number in numbers:
            letter = self._ledger.letters.get(number)
            if letter is not None:
                effects += self._drop(letter)
            rows.append((number, _NO_LETTER if letter is None else ""))
        return [*effects, Send(link, ("dead_done", rows))]

    def requeue(self, link: Link, numbers: list[int], now: float) -> list[Effect]:
        """``now`` is wall-clock time."""
        rows = []
        for number in numbers:
            letter = self._ledger.letters.get(number)
            if letter is None:
                rows.append((number, _NO_LETTER))
            elif letter.home in self._ledger.letters.running:
                rows.append((number, "it was requeued, and has not ended yet"))
            else:
                self._requeue(letter, now)
                rows.append((number, ""))
        return [Send(link, ("dead_done", rows))]

    # --- what becomes of them ----------------------------------------------------------------------------------

    def tidy(self) -> list[Effect]:
        """Note what came of those that were requeued, and drop the oldest beyond the bounds."""
        letters = self._ledger.letters
        effects: list[Effect] = []
        for letter in [letter for home, letter in letters.running.items() if self._ledger.sessions[home].outcomes]:
            self._ledger.note_requeued(letter.number)
            effects += self._end(self._ledger.sessions[letter.home])
            text = f"dead letter {letter.number} was run again: {letter.state}"
            effects.append(Note("info", text, {"letter": letter.number, "state": letter.state}))
        while self._too_many and (oldest := letters.oldest()) is not None:
            text = f"dead letter {oldest.number} was dropped: it was the oldest, and there are too many"
            effects += [*self._drop(oldest), Note("warning", text, {"letter": oldest.number})]
        return effects

    @property
    def _too_many(self) -> bool:
        letters, bounds = self._ledger.letters, self._bounds
        return len(letters) > bounds.dead_letters or letters.size_bytes > bounds.dead_letter_bytes

    def _drop(self, letter: DeadLetter) -> list[Effect]:
        runs = letter.home in self._ledger.letters.running
        ended = self._end(self._ledger.sessions[letter.home]) if runs else []
        return ended + self._workers.drop_code(self._ledger.drop_letter(letter.number))

    def _requeue(self, letter: DeadLetter, now: float) -> None:
        options: dict[object, object] = {name: letter.options[name] for name in _KEPT if name in letter.options}
        if letter.item is not None:
            options["item"] = (letter.item, letter.options["chunk"][0])  # type: ignore[index]
        home = letter.home
        self._ledger.begin(home, f"dead letter {letter.number}", None, None, home, 0, "")
        self._ledger.requeue(letter.number)
        self._ledger.submit(home, 0, letter.function_id, options, [letter.payload], now)

    # --- what is told of them ----------------------------------------------------------------------------------

    def _told(self, letter: DeadLetter) -> dict[str, object]:
        return {
            "letter": letter.number,
            "state": letter.state,
            "function": name_in(self._ledger.blobs.get(letter.function_id).content),
            "name": letter.options.get("name", ""),
            "program": letter.program,
            "session": letter.session,
            "task": letter.sequence,
            "item": letter.item,
            "died_at": letter.died_at,
            "deaths": len(letter.losses),
            "reason": words(letter.losses[-1]),
            "payload_bytes": len(letter.payload),
            "requeues": letter.requeues,
        }

    def _told_all(self, letter: DeadLetter) -> dict[str, object]:
        return self._told(letter) | {"options": letter.options, "losses": letter.losses, "error": letter.error}
