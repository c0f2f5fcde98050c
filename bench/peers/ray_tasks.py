"""Ray: remote functions on a local cluster of its own, without its dashboard."""

import os
from collections.abc import Sequence
from typing import Any

import ray

import processes
import programs
from system import Function, System


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        environ = {"env_vars": {"PYTHONPATH": str(programs.BENCH)}}
        ray.init(
            num_cpus=workers, include_dashboard=False, configure_logging=False, log_to_driver=False, runtime_env=environ
        )
        self._remote: dict[Function, Any] = {}

    def submit(self, function: Function, *args: Any) -> Any:
        if function not in self._remote:
            self._remote[function] = ray.remote(function)
        return self._remote[function].remote(*args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        results: list[Any] = ray.get(list(handles))
        return results

    def roles(self) -> dict[str, list[int]]:
        others = processes.descendants(os.getpid())
        workers = [pid for pid in others if any(name in processes.command(pid) for name in ("ray::", "default_worker"))]
        return {"client": [os.getpid()], "master": [pid for pid in others if pid not in workers], "workers": workers}

    def close(self) -> None:
        ray.shutdown()
