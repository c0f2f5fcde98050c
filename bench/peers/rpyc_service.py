"""RPyC: a server for each worker; numbers, strings and bytes go by value."""

import sys
from typing import Any

import rpyc
from rpyc.utils.server import ThreadedServer

from peers.rpc import Call, RemoteCalls, perform

_CONFIG = {"sync_request_timeout": None}


class Worker(rpyc.Service):
    """What a server serves."""

    def exposed_call(self, name: str, args: tuple[Any, ...]) -> Any:
        return perform(name, args)


class Peer(RemoteCalls):
    """See the module."""

    def connect(self, port: int) -> Call:
        call: Call = rpyc.connect("127.0.0.1", port, config=_CONFIG).root.call
        return call


if __name__ == "__main__":
    ThreadedServer(Worker, hostname="127.0.0.1", port=int(sys.argv[1]), protocol_config=_CONFIG).start()
