"""What all tests share: the signals of a program that somebody started at a terminal."""

import signal


def pytest_configure() -> None:
    # A shell that starts the tests in the background has Ctrl-C ignored, and what they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
