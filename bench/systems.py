"""Which systems there are, and what one has to know of each to read its row."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """One row of the table.

    Args:
        name: what ``--only`` calls it.
        title: what the table calls it.
        module: in ``peers/``; there is a class ``Peer`` in it.
        configured: how it is configured here, and what it does not do.
        venv: the virtual environment it needs, and the file in ``requirements/``; empty: the checkout's own.
        resident: it costs nothing while it idles, so it may stay up while others are measured, and the rounds alternate
            between single measurements. Others are up only for their own part of a round.
        redis: it keeps its queues in a Redis server, which the driver starts.
        package: whose version the table names, as ``requirements/`` has it.
        launcher: the module that runs the client, where it is not started by itself.
        cold: the module for the cold start, where it is another one.
    """

    name: str
    title: str
    module: str
    configured: str
    venv: str = ""
    resident: bool = False
    redis: bool = False
    launcher: str = ""
    package: str = ""
    cold: str = ""


REFERENCE = "pool"
_REDIS = "Redis keeps no data on disk; results in Redis, too"
_CLUSTER = "a master, one worker with a slot for each worker counted, and the client"

SYSTEMS = {
    spec.name: spec
    for spec in (
        SystemSpec(
            "multihost",
            "multihost",
            "multihost_cluster",
            f"{_CLUSTER}; journal `normal` on the checkout's disk; cold start: the one that `Pool()` starts by itself",
            resident=True,
            cold="multihost_local",
        ),
        SystemSpec(
            "multihost-memory",
            "multihost, no journal",
            "multihost_memory",
            f"{_CLUSTER}; journal `memory`",
            resident=True,
            cold="multihost_local",
        ),
        SystemSpec("pool", "multiprocessing.Pool", "local_pool", "its defaults", resident=True),
        SystemSpec("executor", "ProcessPoolExecutor", "local_executor", "its defaults", resident=True),
        SystemSpec(
            "pair",
            "the plain task_master / task_worker pair",
            "plain_pair",
            "two queues served over `multiprocessing.managers`; a task is put and a result got one at a time",
            resident=True,
        ),
        SystemSpec(
            "relay",
            "bare TCP relay in Python, window 1",
            "relay",
            "no key, no journal, no futures, no leases; a worker holds one task",
            resident=True,
        ),
        SystemSpec(
            "relay-256",
            "bare TCP relay in Python, window 256",
            "relay_256",
            "the same; a worker holds up to 256 tasks: the limit of this topology",
            resident=True,
        ),
        SystemSpec(
            "fiber",
            "Fiber's Pool",
            "fiber_pool",
            "its transport ZeroMQ in place of nanomsg, whose bindings cannot be built from the package index any more; "
            "no master, no key, no journal",
            venv="fiber",
            package="fiber",
        ),
        SystemSpec(
            "ray",
            "Ray",
            "ray_tasks",
            "a cluster of its own with `num_cpus` = workers, no dashboard",
            venv="ray",
            package="ray",
        ),
        SystemSpec(
            "dask",
            "Dask",
            "dask_client",
            "`dask scheduler` and `dask worker`, processes of one thread, no dashboard, `pure=False`",
            venv="dask",
            package="distributed",
        ),
        SystemSpec(
            "celery",
            "Celery, Redis",
            "celery_tasks",
            f"prefork, pickle; {_REDIS}",
            venv="celery",
            package="celery",
            redis=True,
        ),
        SystemSpec(
            "dramatiq",
            "Dramatiq, Redis",
            "dramatiq_actors",
            f"processes of one thread, pickle; {_REDIS}",
            venv="dramatiq",
            package="dramatiq",
            redis=True,
        ),
        SystemSpec(
            "rq",
            "RQ, Redis",
            "rq_jobs",
            f"its default worker, which forks for each job; {_REDIS}",
            venv="rq",
            package="rq",
            redis=True,
        ),
        SystemSpec(
            "scoop",
            "SCOOP",
            "scoop_futures",
            "`python -m scoop -n WORKERS`; the client is one of the workers, and short tasks never leave it",
            venv="scoop",
            package="scoop",
            launcher="scoop",
        ),
        SystemSpec(
            "pyro",
            "Pyro5",
            "pyro",
            "remote calls without a queue: a daemon for each worker, and in the client a thread for each; marshal",
            venv="pyro5",
            package="pyro5",
        ),
        SystemSpec(
            "rpyc",
            "RPyC",
            "rpyc_service",
            "remote calls without a queue: a server for each worker, and in the client a thread for each",
            venv="rpyc",
            package="rpyc",
        ),
    )
}
QUICK = ("multihost", "pool", "executor", "pair", "relay", "relay-256")
