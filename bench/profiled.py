"""Run a program under cProfile; its figures are written when it ends.

python bench/profiled.py FILE PROGRAM
"""

import cProfile
import runpy
import sys


def main() -> None:
    """Also when the program leaves by ``sys.exit``."""
    file, program = sys.argv[1:]
    sys.argv = [program]
    sys.path[0] = program.rpartition("/")[0]  # what it would be, were it started by itself
    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_path, program, run_name="__main__")
    finally:
        profile.dump_stats(file)


if __name__ == "__main__":
    main()
