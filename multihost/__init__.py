"""Python's multiprocessing across many hosts, with the standard library's own API.

with multihost.Pool(address="master:5000") as pool:
    print(pool.map(digest, paths))
"""

from importlib import import_module
from multiprocessing import AuthenticationError, TimeoutError
from typing import TYPE_CHECKING

from multihost.errors import (
    AuthkeyMissing,
    ClientClosed,
    ClusterFull,
    CodeNotFound,
    ForkedClient,
    JobBusy,
    JobError,
    JobExists,
    JobIncomplete,
    JobUnknown,
    MasterUnreachable,
    MultihostError,
    ProtocolError,
    PythonMismatch,
    RemoteError,
    ResultNotRebuilt,
    ResultTooLarge,
    SettingsError,
    TaskExpired,
    TaskOutOfMemory,
    TaskTimeout,
    TaskTooLarge,
    WorkerDied,
)
from multihost.workspace import scratch

if TYPE_CHECKING:
    from multihost.client.results import AsyncResult
    from multihost.detached import Job, attach
    from multihost.executor import Executor, Future
    from multihost.explain import Explanation
    from multihost.pool import Pool
    from multihost.shared import QueueManager
    from multihost.statistics import Statistics
else:
    # Imported when they are first asked for: masters, workers and fork servers, which import this package as any
    # program does, have no use for them.
    _HOMES = {
        "AsyncResult": "client.results",
        "Executor": "executor",
        "Explanation": "explain",
        "Future": "executor",
        "Job": "detached",
        "Pool": "pool",
        "QueueManager": "shared",
        "Statistics": "statistics",
        "attach": "detached",
    }

    def __getattr__(name):
        if (home := _HOMES.get(name)) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"
__all__ = [
    "AsyncResult",
    "AuthenticationError",
    "AuthkeyMissing",
    "ClientClosed",
    "ClusterFull",
    "CodeNotFound",
    "Executor",
    "Explanation",
    "ForkedClient",
    "Future",
    "Job",
    "JobBusy",
    "JobError",
    "JobExists",
    "JobIncomplete",
    "JobUnknown",
    "MasterUnreachable",
    "MultihostError",
    "Pool",
    "ProtocolError",
    "PythonMismatch",
    "QueueManager",
    "RemoteError",
    "ResultNotRebuilt",
    "ResultTooLarge",
    "SettingsError",
    "Statistics",
    "TaskExpired",
    "TaskOutOfMemory",
    "TaskTimeout",
    "TaskTooLarge",
    "TimeoutError",
    "WorkerDied",
    "attach",
    "scratch",
]
