"""Pyro5: a daemon for each worker, with its marshal serializer, since its default one has no quick way for bytes."""

import sys
from typing import Any

import Pyro5.api

from peers.rpc import Call, RemoteCalls, perform

Pyro5.config.SERIALIZER = "marshal"


@Pyro5.api.expose
class Worker:
    """What a daemon serves."""

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        return perform(name, args)


class Peer(RemoteCalls):
    """See the module."""

    def connect(self, port: int) -> Call:
        proxy = Pyro5.api.Proxy(f"PYRO:worker@127.0.0.1:{port}")
        try:
            proxy._pyroBind()
        except Pyro5.errors.CommunicationError as error:
            raise ConnectionError from error
        call: Call = proxy.call
        return call


if __name__ == "__main__":
    Pyro5.api.serve({Worker: "worker"}, host="127.0.0.1", port=int(sys.argv[1]), use_ns=False, verbose=False)
