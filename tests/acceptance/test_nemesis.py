"""Faults of every kind, drawn from a seed, while a program submits tasks: what scripts/nemesis does for longer."""

from collections import Counter

from tests.acceptance.cluster import free_port
from tests.acceptance.conftest import ClusterMaker
from tests.acceptance.nemesis import campaign
from tests.acceptance.nemesis.schedule import KINDS

SEED = 1


def test_no_task_is_lost_or_recorded_twice_whatever_breaks(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster(MULTIHOST_PUBLISH=f"127.0.0.1:{free_port()}", **campaign.SETTINGS)

    history, verdict = campaign.run(cluster, SEED, count=2000, seconds=40.0, workers=3)

    assert verdict.problems == []
    assert len(history.acknowledged) == 2000
    assert len({sent.task for sent in history.sent}) == 1000, "each task that was submitted alone was seen on its way"
    assert Counter(fault.kind for fault in history.faults).keys() == KINDS.keys()
