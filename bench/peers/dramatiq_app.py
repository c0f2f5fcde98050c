"""Dramatiq's application: what its worker is started with. Pickle, since its default, JSON, carries no bytes."""

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from peers.redis_queue import URL

dramatiq.set_encoder(dramatiq.PickleEncoder())
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, max_retries=0)
def call(function: Any, args: tuple[Any, ...]) -> Any:
    """Any function of ``work``."""
    return function(*args)
