"""The command line: ``python -m multihost``, or ``multihost`` where it is installed.

click only reads the arguments. What a command leads to is done after click has returned: a program that runs in this
process shall not have its own exceptions taken for click's.
"""

import os
import sys
from collections.abc import Callable

import click

import multihost
from multihost.settings import ExitCode, parse_address

# What is to be done once the arguments are read; gives the exit code.
Action = Callable[[], int]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(multihost.__version__, message="multihost %(version)s")
def commands() -> None:
    """Python's multiprocessing across many hosts."""


@commands.command(context_settings={"allow_interspersed_args": False})
@click.option("--address", metavar="HOST:PORT", help="The master's address; in place of MULTIHOST_ADDRESS.")
@click.option("-m", "module", is_flag=True, help="SCRIPT is the name of a module, as with python -m.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(address: str | None, module: bool, script: str, arguments: tuple[str, ...]) -> Action:
    """Run SCRIPT with the cluster's processes in the place of this machine's.

    The script is not changed: where it uses multiprocessing.Pool or concurrent.futures.ProcessPoolExecutor, it gets
    multihost.Pool and multihost.Executor. Without an address they have a cluster inside this machine.

    The master's key comes from MULTIHOST_AUTHKEY or MULTIHOST_AUTHKEY_FILE, never from the command line, where every
    user of the machine could read it.
    """

    def action() -> int:
        from multihost import program, standin  # other commands need neither

        if address is not None:
            parse_address(address, "--address")
            os.environ["MULTIHOST_ADDRESS"] = address
        standin.install()
        try:
            return program.run(script, list(arguments), module)
        except program.NoSuchProgram as error:
            return _tell(error, 2)

    return action


def main() -> int:
    """Do what the command line says; the exit code."""
    try:
        # With standalone_mode off, click returns what the command did, or the exit code of --help.
        chosen: Action | int = commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130  # Ctrl-C, as a shell counts it
    if not callable(chosen):
        return chosen or ExitCode.OK
    try:
        return chosen()
    except multihost.MasterUnreachable as error:
        return _tell(error, ExitCode.UNAVAILABLE)
    except multihost.SettingsError as error:
        return _tell(error, ExitCode.SETTINGS)
    except multihost.AuthenticationError as error:
        return _tell(error, ExitCode.REFUSED)


def _tell(error: Exception, code: int) -> int:
    print(f"multihost: {error}", file=sys.stderr)
    return code
