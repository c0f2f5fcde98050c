"""The master's mind: which task runs where, and what became of it.

    wire.server (frames, roles) <-> service (the shell: one event loop) <-> core (event, now) -> effects

    core       connections, the table of messages, time; events: what goes in, what comes out
    |- clients    what they say and are told; bounds: how much is taken from them
    |- workers    what they want, are granted and say of it
    |- jobs       detached jobs: who may collect them, and how long they are kept
    |- dead       what watchers do with dead letters; letters: those letters
    |- explaining why a task has not started or not ended
    |- nested     sessions that tasks open, on a channel of their worker
    |- ledger     what becomes of a task: commands that change it, each of them a record for the journal
    |  |- tasks      a task and its states
    |  |- ready      which task is next; delayed: which not yet; expiring: which not any more
    |  |- leases     who holds which task
    |  `- blobs      code, sent once to each worker
    `- queues     the shared queues

    journal (rows of records) -> records  what a row holds     repair  by hand, after damage
                              `- rowfile  rows in a file

The core and what is below it know no clock, socket, thread or file.
"""
