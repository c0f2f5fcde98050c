"""What scripts/nemesis runs: one campaign on a cluster of its own, its table, and the evidence of a broken promise."""

import argparse
import dataclasses
import json
import os
import secrets
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import docker

from tests.acceptance.cluster import ROOT, Cluster, clean_environ, free_port, run
from tests.acceptance.nemesis import campaign
from tests.acceptance.nemesis.checker import History, Verdict

PROJECT = "multihost-nemesis"
# Beyond the time that is asked for: building, starting, mending, draining. Whatever hangs is ended then.
_EXTRA_SECONDS = 900
_BROKEN, _VOID = 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/nemesis")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--workers", type=int, default=4, choices=range(3, 7))
    parser.add_argument("--no-build", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _leave)
    signal.alarm(int(options.minutes * 60) + _EXTRA_SECONDS)
    name = f"--minutes {options.minutes:g} --tasks {options.tasks} --seed {options.seed} --workers {options.workers}"
    print(f"scripts/nemesis {name}", flush=True)
    engine = docker.from_env()
    python_version = os.environ["PYTHON_VERSION"]
    cluster = Cluster(
        engine,
        PROJECT,
        python_version,
        MULTIHOST_PUBLISH=f"127.0.0.1:{free_port()}",
        **campaign.SETTINGS,
    )
    try:
        cluster.down()  # what a run that was killed has left
        if not options.no_build:
            _build(python_version)
        history, verdict = campaign.run(cluster, options.seed, options.tasks, options.minutes * 60, options.workers)
        print(verdict.table())
        for problem in verdict.problems:
            print(f"BROKEN: {problem}")
        kept = _keep(cluster, options.seed, history, verdict)
        print(f"the history and the logs are in {kept}", file=sys.stderr)
        return _BROKEN if verdict.problems else 0
    except Exception:
        traceback.print_exc()
        print("void: the run did not come to its end, so nothing was judged", file=sys.stderr)
        return _VOID
    finally:
        signal.alarm(0)
        _remove(cluster)
        engine.close()


def _remove(cluster: Cluster) -> None:
    """All of it; where the engine has gone, its containers have gone with it."""
    try:
        cluster.down()
    except Exception as error:
        print(f"what is left of project {PROJECT} could not be removed: {error}", file=sys.stderr)


def _build(python_version: str) -> None:
    """As the compose file's own project, like all who build: compose writes the project into a label, and images that
    differ in it alone would have the containers of everybody else made anew at their next ``up``."""
    environ = clean_environ(PYTHON_VERSION=python_version)
    run("docker", "compose", "build", "--quiet", "master", "worker", environ=environ, timeout=_EXTRA_SECONDS)


def _leave(signum: int, frame: object) -> NoReturn:
    """Through every ``finally``, so that nothing stays."""
    sys.exit(f"ended by {signal.Signals(signum).name}")


def _keep(cluster: Cluster, seed: int, history: History, verdict: Verdict) -> Path:
    """The history and the containers' logs, in a directory; those of workers that were scaled away are gone."""
    directory = ROOT / "build" / f"nemesis-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "verdict").write_text("\n".join([verdict.table(), *verdict.problems, *verdict.dead_letters]))
    (directory / "history.json").write_text(json.dumps(dataclasses.asdict(history), default=bytes.hex))
    for container in cluster.containers():
        (directory / f"{container.name}.log").write_bytes(container.logs(timestamps=True))
    return directory
