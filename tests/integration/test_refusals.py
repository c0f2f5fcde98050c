"""A peer that breaks the rules of its link is told so, once, and does not try the same again."""

import pytest

import multihost
from multihost import payload
from multihost.wire.connection import Patience
from tests.integration.cluster import Cluster


def test_a_client_whose_blobs_are_refused_is_told_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    master = cluster.start_master()
    cluster.start_worker()
    # As a client of another version would do, which names blobs in another way.
    monkeypatch.setattr(payload, "content_id", lambda content, needs=(): "another name")
    pool = cluster.pool()
    with pytest.raises(multihost.ProtocolError, match="blob's content does not match its id"):
        pool.apply(len, ["abc"])
    with pytest.raises(multihost.ProtocolError, match="refused what this program sent"):
        pool.apply(len, ["abc"])  # the session has ended; the next call says so at once
    pool.terminate()
    master.wait_for_log("closed the connection")
    assert master.log().count("session began") == 1  # it did not come back
    assert master.log().count("closed the connection") == 1


def test_the_wait_before_attaching_again_grows_until_a_connection_lasts() -> None:
    patience = Patience()
    waits = [patience.after(lasted=0.01) for _ in range(8)]
    assert max(waits[:2]) < min(waits[4:])
    assert patience.after(lasted=60.0) == 0.0
    assert patience.after(lasted=0.01) < min(waits[4:])
