"""Asks for one item of the task queue, says that it did, and waits for it: a client to be killed inside get()."""

import os
from multiprocessing.connection import Client
from multiprocessing.managers import dispatch  # type: ignore[attr-defined]

host, _, port = os.environ["MULTIHOST_ADDRESS"].rpartition(":")
connection = Client((host, int(port)), authkey=os.environ["MULTIHOST_AUTHKEY"].encode())
dispatch(connection, None, "accept_connection", ("getter",))
connection.send(("get_task_queue", "get", (), {}))  # as a proxy does
print("asked", flush=True)
print("got", connection.recv(), flush=True)
