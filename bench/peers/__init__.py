"""The systems that are measured, a module each; every one has a class ``Peer``."""
