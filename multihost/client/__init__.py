"""A client program's side of a session: what it submits, and what comes back.

pool -> session (the shell: one lock, one receiving thread) <-> wire.connection <-> the master
 |       |- core     numbers, batches and remembers the tasks; (event) -> messages
 |       `- code     the program's own modules as one archive; functions as blobs
 `- results          what a pool hands out for calls under way
"""
