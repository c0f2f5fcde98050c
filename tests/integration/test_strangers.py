"""Peers without the key, or with the key and garbage: refused, logged, and nobody else notices."""

import contextlib
import os
import resource
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

import multihost
from multihost.broker.bounds import LEASES_PER_SLOT
from multihost.client.monitor import ask_statistics
from multihost.payload import content_id
from multihost.settings import DEFAULT_AUTHKEY_FILE
from multihost.wire.doorway import WrongKeys
from multihost.wire.messages import PROTOCOL_VERSION
from tests.integration import tasks
from tests.integration.clients import Bomb, ask, authenticated, framed, is_closed, link, pickled, stock_queues
from tests.integration.cluster import DEADLINE, ROOT, WORKER, Cluster, wait_until

HEALTH = {"master": ROOT / "master" / "health.py", "worker": ROOT / "worker" / "health.py"}
IDLE = 1000


@pytest.fixture
def master(cluster: Cluster) -> Cluster:
    cluster.start_master()
    return cluster


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master at which garbage is thrown, and that must end without a traceback."""
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.start_master()
        yield cluster


@pytest.fixture
def explosion(target: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A file that a bomb creates where it explodes; none may, and the master must go on serving."""
    yield tmp_path / "exploded"
    assert not (tmp_path / "exploded").exists()
    _assert_serves(target)


# --- keys ------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_at_once_for_every_kind_of_client(master: Cluster) -> None:
    begun = time.monotonic()
    with pytest.raises(AuthenticationError):
        stock_queues(master, authkey="wrong")
    with pytest.raises(multihost.AuthenticationError, match="give the key that the master was started with"):
        multihost.Pool(address=str(master.address), authkey="wrong")
    with pytest.raises(multihost.AuthenticationError):
        ask_statistics(master.address, b"wrong")
    # A client that took the refusal for a master that is not there would try again for CONNECT_TIMEOUT.
    assert time.monotonic() - begun < 3
    assert not master.statistics()["sessions"]


def test_a_worker_with_a_wrong_key_exits_with_77(master: Cluster) -> None:
    worker = master.start_worker(wait=False, MULTIHOST_AUTHKEY="wrong")
    assert worker.wait() == 77
    assert "refused this authkey" in worker.log()


def test_fifty_wrong_keys_give_one_line_in_the_masters_log(master: Cluster) -> None:
    with ThreadPool(50) as guessers:
        assert all(guessers.map(lambda _: _guess(master), range(50)))
    _assert_serves(master)
    assert master.master.log().count("refused a connection") == 1


def test_each_wrong_key_from_an_address_is_answered_later_than_the_one_before(master: Cluster) -> None:
    for _ in range(WrongKeys.FREE):
        assert _guess(master)
    for seconds in (0.1, 0.2, 0.4):
        begun = time.monotonic()
        assert _guess(master)
        assert time.monotonic() - begun >= seconds


def test_who_has_the_key_is_let_in_although_his_address_is_that_of_a_flood_of_wrong_keys(master: Cluster) -> None:
    over = threading.Event()

    def flood(_: int) -> int:
        guesses = 0
        while not over.is_set():
            guesses += _guess(master)
        return guesses

    with ThreadPool(100) as guessers:
        guesses = guessers.map_async(flood, range(100), chunksize=1)
        try:
            wait_until(lambda: "refused a connection" in master.master.log(), "the flood has begun")
            for _ in range(3):
                _assert_serves(master)
            assert not guesses.ready()
        finally:
            over.set()
        assert sum(guesses.get(30)) >= 100


def test_a_key_file_works_as_the_key_itself(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(cluster.authkey + "\n")
    cluster.start_master(MULTIHOST_AUTHKEY="", MULTIHOST_AUTHKEY_FILE=str(file))
    cluster.start_worker(MULTIHOST_AUTHKEY="", MULTIHOST_AUTHKEY_FILE=str(file))


def test_the_key_is_changed_under_load_and_the_old_one_is_refused_afterwards(lasting: Cluster, tmp_path: Path) -> None:
    file, old, new = tmp_path / "ran", lasting.authkey, "the new key"

    def ran(count: int) -> None:
        wait_until(lambda: file.exists() and len(file.read_text().split()) >= count, "the job goes on")

    def restart_master(**settings: str) -> None:
        lasting.master.term()
        assert lasting.master.wait() == 0
        lasting.authkey = new
        lasting.start_master(**settings)

    lasting.start_master()
    worker = lasting.start_worker("old")
    with lasting.pool() as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(900)], 1)
        ran(50)
        restart_master(MULTIHOST_AUTHKEY_PREVIOUS=old)
        lasting.start_worker("new")
        ran(300)
        worker.term()
        assert worker.wait() == 0
        assert outcome.get(DEADLINE) == list(range(900))
    assert "has the previous key; give it the new one" in lasting.master.log()
    for key in (old, new):
        assert stock_queues(lasting, key)[0].qsize() == 0
    with lasting.pool() as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(900, 1500)], 1)
        ran(1000)
        restart_master()
        with pytest.raises(multihost.AuthenticationError):
            multihost.Pool(address=str(lasting.address), authkey=old)
        assert lasting.start_worker("old", wait=False, MULTIHOST_AUTHKEY=old).wait() == 77
        assert outcome.get(DEADLINE) == list(range(900, 1500))
    assert sorted(map(int, file.read_text().split())) == list(range(1500))
    assert lasting.statistics()["redelivered"] == 0


@pytest.mark.parametrize("program", ["master", "worker"])
def test_a_program_given_both_key_variables_exits_with_78(cluster: Cluster, program: str, tmp_path: Path) -> None:
    script = ROOT / program / f"task_{program}.py"
    started = cluster.start_python(script, MULTIHOST_AUTHKEY_FILE=str(tmp_path / "key"))
    assert started.wait() == 78
    assert "MULTIHOST_AUTHKEY and MULTIHOST_AUTHKEY_FILE are both set" in started.log()


@pytest.mark.skipif(DEFAULT_AUTHKEY_FILE.exists(), reason=f"{DEFAULT_AUTHKEY_FILE} holds a key on this machine")
def test_without_a_key_a_worker_exits_with_78_and_a_pool_raises(cluster: Cluster) -> None:
    worker = cluster.start_python(WORKER, MULTIHOST_AUTHKEY="")
    assert worker.wait() == 78
    assert "no authkey: set MULTIHOST_AUTHKEY" in worker.log()
    with pytest.raises(multihost.AuthkeyMissing):
        multihost.Pool(address=str(cluster.address))


# --- before the handshake is done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: master\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xfe",
        b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
        framed(b"x" * 1025),
        framed(b""),
        framed(b"x" * 16),
        framed(b"{sha256}" + b"x" * 32),
        framed(b"{sha1}" + b"x" * 20),
        framed(b"#WELCOME#"),
        os.urandom(4096),
    ],
    ids=lambda garbage: repr(garbage[:12]),
)
def test_garbage_instead_of_a_handshake_is_answered_by_a_closed_connection(target: Cluster, garbage: bytes) -> None:
    with socket.create_connection(target.address.pair, timeout=10) as sock:
        sock.sendall(garbage)
        _read_to_the_end(sock)
    _assert_serves(target)


def test_a_bomb_instead_of_a_handshake_does_not_explode(target: Cluster, explosion: Path) -> None:
    with socket.create_connection(target.address.pair, timeout=10) as sock:
        sock.sendall(framed(pickled(Bomb(explosion))))
        _read_to_the_end(sock)


def test_peers_that_leave_in_the_middle_of_a_header_or_reset_are_forgotten(target: Cluster) -> None:
    for number in range(50):
        sock = socket.create_connection(target.address.pair, timeout=10)
        if number % 2:
            sock.sendall(b"\x00\x00")
        else:  # close by a reset, perhaps before the master has accepted
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    _assert_serves(target)


# --- with the key ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        lambda bomb: b"",
        lambda bomb: b"garbage",
        lambda bomb: os.urandom(1000),
        lambda bomb: pickled("a string"),
        lambda bomb: pickled((None, 5, (), {})),
        lambda bomb: pickled((None, "dummy", (), {}, "too much")),
        lambda bomb: pickled((None, "hello", ("admiral", {}), {})),
        lambda bomb: pickled((None, "hello", (), {})),
        lambda bomb: b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
        lambda bomb: b"\x80\x04(" + b"]" * 200_000 + b"a" * 199_999 + b"\x8c\x03put)}t.",
        lambda bomb: pickled(bomb),
        lambda bomb: pickled((None, "create", (bomb,), {})),
        lambda bomb: pickled((bomb, "dummy", (), {})),
        lambda bomb: pickled((None, "hello", ("client", {"session": bomb}), {})),
    ],
)
def test_garbage_as_the_first_request_closes_the_connection_with_one_log_line(
    target: Cluster, explosion: Path, first: Callable[[Bomb], bytes]
) -> None:
    with authenticated(target) as connection:
        connection.send_bytes(first(Bomb(explosion)))
        _assert_closed_and_logged_once(target, connection)


def test_a_claim_of_a_huge_frame_closes_the_connection_before_it_is_stored(target: Cluster) -> None:
    with authenticated(target) as connection:
        os.write(connection.fileno(), struct.pack("!iQ", -1, 1 << 40))
        _assert_closed_and_logged_once(target, connection)


@pytest.mark.parametrize("place", ["item", "keyword", "timeout", "queue", "method"])
def test_a_bomb_in_a_call_is_refused_and_does_not_explode(target: Cluster, explosion: Path, place: str) -> None:
    bomb: object = Bomb(explosion)
    request: dict[str, object] = {
        "item": ("get_task_queue", "put", (bomb,), {}),
        "keyword": ("get_task_queue", "put", (1,), {"block": bomb}),
        "timeout": ("get_task_queue", "get", (True, bomb), {}),
        "queue": (bomb, "get", (), {}),
        "method": ("get_task_queue", bomb, (), {}),
    }
    with authenticated(target) as connection:
        ask(connection, "accept_connection", "me")
        connection.send(request[place])
        kind, error = connection.recv()
        assert (kind, type(error)) == ("#ERROR", TypeError)
        assert "plain data" in str(error)
        assert ask(connection, "qsize", ident="get_task_queue") == 0


LINKS: dict[str, dict[str, object]] = {
    "client": {"session": "s", "limit": None, "lifetime": None, "name": "test"},
    "worker": {"worker": "id", "name": "stranger", "slots": 1},
    "monitor": {},
}


@pytest.mark.parametrize(
    ("role", "batch"),
    [
        ("client", lambda bomb: bomb),
        ("client", lambda bomb: [("submit", 0, "f", {}, [bomb])]),
        ("client", lambda bomb: [("blob", "id", bomb, ())]),
        ("client", lambda bomb: [("submit", 0, "no such function", {}, [b""])]),
        ("client", lambda bomb: [("blob", "another hash", b"content", ())]),
        ("client", lambda bomb: [("settle", [(1, "result", b"")])]),
        ("client", lambda bomb: [("submit", -1, content_id(b""), {}, [b""])]),
        ("client", lambda bomb: "no list"),
        ("client", lambda bomb: [()]),
        ("client", lambda bomb: [("ping", 1)]),
        ("worker", lambda bomb: [("settle", [(1, "result", bomb)])]),
        ("worker", lambda bomb: [("settle", [(1, "unheard of", b"")])]),
        ("worker", lambda bomb: [("want", -1)]),
        ("worker", lambda bomb: [("want", True)]),
        ("worker", lambda bomb: [("want", 1 << 80)]),
        ("worker", lambda bomb: [("submit", 0, "f", {}, [b""])]),
        ("worker", lambda bomb: [("ask",)]),
        ("monitor", lambda bomb: [("ask", bomb)]),
        ("monitor", lambda bomb: [("drain",)]),
        ("monitor", lambda bomb: [("shutdown",)]),
    ],
)
def test_a_batch_that_breaks_the_rules_closes_the_link(
    target: Cluster, explosion: Path, role: str, batch: Callable[[Bomb], object]
) -> None:
    with authenticated(target) as connection:
        link(connection, role, **LINKS[role])
        connection.send(batch(Bomb(explosion)))
        _assert_closed_and_logged_once(target, connection)


def test_tasks_and_functions_are_opaque_to_the_master(target: Cluster, explosion: Path) -> None:
    content = pickled(Bomb(explosion))
    with authenticated(target) as connection:
        link(connection, "client", **{**LINKS["client"], "session": "opaque"})
        connection.send([("blob", content_id(content), content, ()), ("submit", 0, content_id(content), {}, [content])])
        assert ("accepted", 1) in connection.recv()
        assert target.statistics()["queued"] == 1
        connection.send([("close",)])
        wait_until(lambda: is_closed(connection), "the session ended")
    assert target.statistics()["queued"] == 0


def test_a_worker_that_claims_too_many_slots_is_refused_with_the_bound(target: Cluster) -> None:
    with authenticated(target) as connection:
        about = {"version": PROTOCOL_VERSION, "python": "3.11", **LINKS["worker"], "slots": 1_000_000_000}
        connection.send((None, "hello", ("worker", about), {}))
        kind, text = connection.recv()
        assert kind == "#ERROR"
        assert "1 to 10,000 slots, this one claims 1,000,000,000; lower its MULTIHOST_SLOTS" in text
        wait_until(lambda: is_closed(connection), "the master closed the connection")
    assert target.worker("stranger") is None


def test_a_worker_that_takes_all_it_can_get_leaves_tasks_for_others(master: Cluster) -> None:
    with authenticated(master) as rogue, master.pool() as pool:
        link(rogue, "worker", **LINKS["worker"])
        outcome = pool.map_async(abs, range(2 * LEASES_PER_SLOT), chunksize=1)
        for _ in range(3):
            rogue.send([("want", 1_000_000)])
        wait_until(lambda: master.statistics()["leased"] == LEASES_PER_SLOT, "it was leased what it may")
        master.start_worker()
        wait_until(lambda: master.statistics()["done"] == LEASES_PER_SLOT, "the others were run by another worker")
        rogue.close()
        assert outcome.get(60) == list(range(2 * LEASES_PER_SLOT))


# --- a flood ---------------------------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open enough sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = IDLE + 200
    if hard not in (resource.RLIM_INFINITY,) and hard < enough:
        pytest.skip(f"this process may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_a_thousand_silent_connections_hinder_nobody_and_are_closed(
    master: Cluster, record_property: Callable[[str, object], None]
) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(master.address.pair, timeout=10)) for _ in range(IDLE)]
        begun = time.monotonic()
        _assert_serves(master)
        seconds = time.monotonic() - begun
        record_property("seconds of a stock client among silent connections", seconds)
        print(f"a stock client among {IDLE} silent connections: {seconds * 1000:.0f} ms")
        selector = stack.enter_context(selectors.DefaultSelector())
        for sock in idle:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        wait_until(lambda: _drop_closed(selector) == 0, "the master closed every silent connection", 20.0)
        _assert_serves(master)
    assert master.master.log().count("refused a connection") < 5


def _drop_closed(selector: selectors.BaseSelector) -> int:
    """How many sockets are still open, after forgetting those that the other side has closed."""
    for key, _ in selector.select(0):
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        try:
            open_ = sock.recv(4096)
        except BlockingIOError:
            continue
        except ConnectionError:
            open_ = b""
        if not open_:
            selector.unregister(sock)
    return len(selector.get_map())


# --- no leak ---------------------------------------------------------------------------------------------------


def test_connections_that_ended_leave_no_open_file_in_the_master(master: Cluster) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{master.master.pid}/fd"))

    def come_and_go(clients: int, pools: int) -> None:
        for _ in range(clients):
            tasks, results = stock_queues(master)
            tasks.put(1)
            assert tasks.get(timeout=10) == 1
            del tasks, results
        for _ in range(pools):
            master.pool().terminate()

    come_and_go(1, 1)
    wait_until(lambda: master.statistics()["sessions"] == 0, "the first session ended")
    baseline = open_files()
    come_and_go(200, 20)
    wait_until(lambda: open_files() <= baseline, f"the master was back at {baseline} open files")
    assert master.statistics()["sessions"] == 0


# --- health checks ---------------------------------------------------------------------------------------------


def test_health_checks_succeed_where_master_and_worker_are_together(shared_cluster: Cluster) -> None:
    assert "healthy: 1 workers" in shared_cluster.run(HEALTH["master"])
    assert "healthy: ready" in shared_cluster.run(HEALTH["worker"], MULTIHOST_NAME="w1")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"MULTIHOST_AUTHKEY": "wrong"}, "refused this authkey"),
        ({"MULTIHOST_ADDRESS": "127.0.0.1:1"}, "no master answered at 127.0.0.1:1"),
        ({"MULTIHOST_ADDRESS": "nonsense:port"}, "MULTIHOST_ADDRESS must be host:port"),
        ({"MULTIHOST_AUTHKEY_FILE": "/nowhere"}, "both set"),
    ],
)
@pytest.mark.parametrize("program", ["master", "worker"])
def test_health_checks_fail_with_a_reason(
    shared_cluster: Cluster, program: str, settings: dict[str, str], reason: str
) -> None:
    check = shared_cluster.start_python(HEALTH[program], cwd=None, **settings)
    assert check.wait() == 1
    assert reason in check.log()


def test_a_workers_health_check_fails_while_the_master_does_not_know_it(shared_cluster: Cluster) -> None:
    check = shared_cluster.start_python(HEALTH["worker"], MULTIHOST_NAME="w2")
    assert check.wait() == 1
    assert "knows no worker named w2" in check.log()


def test_a_health_check_of_a_frozen_master_fails_in_bounded_time(master: Cluster) -> None:
    master.master.stop()
    check = master.start_python(HEALTH["master"])
    assert check.wait() == 1
    assert "unhealthy: no master answered" in check.log()


# --- helpers ---------------------------------------------------------------------------------------------------


def _guess(cluster: Cluster) -> bool:
    """Try a wrong key; whether it was refused."""
    try:
        Client(cluster.address.pair, authkey=b"wrong").close()
    except (AuthenticationError, OSError, EOFError):  # where there are too many, the oldest have to leave
        return True
    return False


def _assert_serves(cluster: Cluster) -> None:
    tasks, _ = stock_queues(cluster)
    tasks.put("still here")
    assert tasks.get(timeout=10) == "still here"


def _assert_closed_and_logged_once(cluster: Cluster, connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        host, port = sock.getsockname()
    wait_until(lambda: is_closed(connection), "the master closed the connection")
    lines = [line for line in cluster.master.log().splitlines() if f"{host}:{port}" in line]
    assert len(lines) == 1, lines


def _read_to_the_end(sock: socket.socket) -> None:
    """Wait until the other side has closed."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass
