"""The worker's mind: which task runs in which child process, and what the master is told of it.

    master <-> link (one connection, reconnects) <-> loop (the shell: one selector, one thread) <-> slots (children)
                                                      |                                             slot (in the child)
                                                      core (event, now) -> effects

The main process never imports or runs what clients send; its children do.
"""
