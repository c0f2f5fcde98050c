"""``python -m tests.acceptance.nemesis``: command.py, imported by this program alone."""

import sys

if __name__ == "__main__":
    # Here, for the workers import this module, too, and have no docker.
    from tests.acceptance.nemesis.command import main

    sys.exit(main())
