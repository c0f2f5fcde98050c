"""Python's multiprocessing across many hosts, with the standard library's own API.

with multihost.Pool(address="master:5000") as pool:
    print(pool.map(digest, paths))
"""

from multiprocessing import AuthenticationError, TimeoutError

from multihost.client.results import AsyncResult
from multihost.detached import Job, attach
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
from multihost.executor import Executor, Future
from multihost.explain import Explanation
from multihost.pool import Pool
from multihost.shared import QueueManager
from multihost.workspace import scratch

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
    "TaskExpired",
    "TaskOutOfMemory",
    "TaskTimeout",
    "TaskTooLarge",
    "TimeoutError",
    "WorkerDied",
    "attach",
    "scratch",
]
