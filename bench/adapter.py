"""The process in which one system is measured: it holds the system's client, and does what the driver tells it.

    python bench/adapter.py NAME SOCKET [WORKERS]

It dials the driver's socket and speaks lines of JSON: an order comes, an answer goes. Prints of the system's own
therefore disturb nothing. With ``WORKERS`` it does one thing: runs a first task and tells when its result was there.
"""

import importlib
import json
import socket
import sys
import time
from typing import Any

from measures import MEASURES, Effort
from system import Lacking, System


def system_class(name: str) -> type[System]:
    """The class ``Peer`` of the module in ``peers/``."""
    peer: type[System] = importlib.import_module(f"peers.{name}").Peer
    return peer


class Adapter:
    """Obeys orders, each a dict with ``do``; what an order raises is its answer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._system: System | None = None
        self._effort = Effort(1.0, 1000)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"figures": self._obey(order)}
        except Lacking as lacking:
            return {"lacking": str(lacking)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error)[:300]}"}

    def _obey(self, order: dict[str, Any]) -> dict[str, float]:
        match order:
            case {"do": "start", "workers": int(workers), "seconds": seconds, "most_tasks": most, "large": large}:
                self._system = system_class(self._name)(workers)
                self._effort = Effort(seconds, most, large)
            case {"do": "measure", "what": str(what)}:
                assert self._system is not None
                return MEASURES[what](self._system, self._effort)
            case {"do": "stop"} if self._system is not None:
                system, self._system = self._system, None
                system.close()
        return {}


def first_result(name: str, workers: int) -> dict[str, float]:
    """When the first result was there, on the clock that the driver reads, too."""
    import work

    system = system_class(name)(workers)
    assert system.collect([system.submit(work.square, 3)]) == [9]
    moment = time.monotonic()
    system.close()
    return {"moment": moment}


def main() -> None:
    """Serve the driver until it hangs up."""
    name, path, *workers = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as driver:
        driver.connect(path)
        lines = driver.makefile("rw", encoding="utf-8")
        if workers:
            print(json.dumps({"figures": first_result(name, int(workers[0]))}), file=lines, flush=True)
            return
        adapter = Adapter(name)
        try:
            for line in lines:
                print(json.dumps(adapter.obey(json.loads(line))), file=lines, flush=True)
        finally:
            adapter.obey({"do": "stop"})  # when the driver was killed


if __name__ == "__main__":
    main()
