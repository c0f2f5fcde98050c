"""A client program's side of a session: what it submits, and what comes back.

pool, executor -> session (the shell: one lock, one receiving thread) <-> the master
                   |- core  numbers, batches and remembers the tasks; (event) -> messages
                   `- code  the program's own modules as one archive; functions as blobs
"""
