"""The worker's mind: which task runs in which child process, and what the master is told of it.

    the master <-> wire.connection <-> loop (the shell: one selector, one thread) <-> slots (children)
                                        `- core  (event, now) -> effects               `- slot (in the child)

The core's own leaves are ``children``, ``limits`` and ``relays``; of the child, ``backlog``, ``chunk``, ``coroutines``,
``door``, ``interrupts``, ``outbox``, ``output`` and ``sources``.

The main process never imports or runs what clients send; its children do.
"""
