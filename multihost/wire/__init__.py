"""The wire: the standard library's managers protocol, and the link that our own peers make of it.

    socket bytes -> frames.FrameReader -> handshake -> messages.decode -> requests or link messages
                                                                       (server.py: to a Handler)
    values -> messages.encode -> frames.frame -> socket bytes

A connection starts as any ``multiprocessing.connection`` does: length-prefixed frames, an HMAC challenge both
ways. A stock ``BaseManager`` client goes on with requests ``(ident, method, args, kwds)`` and gets replies
``(kind, value)``. A peer of ours makes one such request, ``hello``, and its connection is a **link** from then on:
each frame is a batch, a list of messages ``(name, *fields)``, in either direction and without waiting for replies.
"""
