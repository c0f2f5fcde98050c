"""``python -m multihost``: the command line."""

import sys

from multihost.cli import main

if __name__ == "__main__":
    sys.exit(main())
