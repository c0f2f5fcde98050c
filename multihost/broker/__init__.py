"""The master's mind: which task runs where, and what became of it.

    wire.server (frames, roles) <-> service (the shell: one event loop) <-> core (event, now) -> effects
                                                                             |- events   what goes in, what comes out
                                                                             |- tasks    a task and its states
                                                                             |- ready    which task is next
                                                                             |- leases   who holds which task
                                                                             |- blobs    code, sent once to each worker
                                                                             `- queues   the shared queues

    journal (rows of records) -> records  what a row holds     repair  by hand, after damage
                              `- rowfile  rows in a file

The core and what is below it know no clock, socket, thread or file.
"""
