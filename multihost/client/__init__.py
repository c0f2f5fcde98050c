"""A client program's side of a session: what it submits, and what comes back.

pool -> feed -> session (the shell: one lock, one receiving thread) <-> wire.connection <-> the master
 |       |       |- delivery how an outcome reaches the callback that waits for it
 |       |       |- core     numbers, batches and remembers the tasks; (event) -> messages
 |       |       |  |- blobs   which blobs the master has, and when it is to let go of large ones
 |       |       |  `- values  which large values calls have that have not ended, to be sent with the function
 |       |       |- packing  how functions and arguments travel
 |       |       |  `- code    the program's own modules as one archive; functions as blobs
 |       |       |- chunk    several calls that travel as one task: which of them have their outcome
 |       |       `- notices  what people are told: warnings, what tasks print (output shows it)
 |       `- plan             into which chunks a map is cut; (slots, times) -> indices
 `- results                  what a pool hands out for calls under way
monitor                     what watchers and the command line ask the master
"""
