"""The worker's mind: which task runs in which child process, and what the master is told of it.

    the master <-> wire.connection <-> loop (the shell: one selector, one thread) <-> slots (children)
                                        `- core  (event, now) -> effects               `- slot (in the child)

The core's own leaves are ``children``, ``credit``, ``durations``, ``inquest``, ``limits``, ``relays`` and
``unrecorded``; of the child, ``backlog``, ``chunk``, ``coroutines``, ``door``, ``interrupts``, ``memory``, ``outbox``,
``output``, ``scratch``, ``sources`` and ``tail``.
Between the fork server, which ``fork_server`` starts and which imports ``preloaded``, and each child stands a
``warden``, which tells how that ended. In a cluster inside one machine the fork server is a fork, by ``forks``.

The main process never imports or runs what clients send; its children do.
"""
