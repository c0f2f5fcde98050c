"""Celery's application: what its worker is started with. Pickle, since its default, JSON, carries no bytes."""

from typing import Any

from celery import Celery

from peers.redis_queue import URL

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(task_serializer="pickle", result_serializer="pickle", accept_content=["pickle"], result_expires=600)


@app.task
def call(function: Any, args: tuple[Any, ...]) -> Any:
    """Any function of ``work``."""
    return function(*args)
