"""The command line: ``python -m multihost``, or ``multihost`` where it is installed.

click only reads the arguments. What a command leads to is done after click has returned: a program that runs in this
process shall not have its own exceptions taken for click's.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

import click

import multihost
from multihost.settings import Address, ExitCode, parse_address, read_authkey, read_settings

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


def _task_name(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, int]:
    """(how the session's id begins, the task's number)"""
    session, _, number = text.rpartition("/")
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise click.BadParameter(f"{text!r} is no task: its number, as errors tell it, or SESSION/NUMBER")
    return session, int(number)


@commands.command()
@click.option("--address", metavar="HOST:PORT", help="The master's address; in place of MULTIHOST_ADDRESS.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, with all that is known.")
@click.argument("task", callback=_task_name)
def explain(address: str | None, as_json: bool, task: tuple[str, int]) -> Action:
    """Tell why TASK has not started, or not ended.

    TASK is a task's number, as it is in the notes of errors ("multihost: task 12 (f) on worker w1"), and means that of
    each program; SESSION/NUMBER, where SESSION is how the session's id begins, means one program's. The exit code is 1
    if the master has no such task.
    """

    def action() -> int:
        from multihost.client.monitor import find_tasks

        session, number = task
        found = find_tasks(*_master(address), number, session)
        for told in found:
            name = f"{told.session[:8]}/{told.task} of {told.program}"
            print(json.dumps(asdict(told) | {"text": str(told)}) if as_json else f"{name}: {told.words}")
        return ExitCode.OK if found else _tell(LookupError("the master has no such task"), 1)

    return action


def _master(address: str | None) -> tuple[Address, bytes]:
    """Raises: SettingsError: it is not said where the master is, or what its key is."""
    where = read_settings(os.environ).address if address is None else parse_address(address, "--address")
    if where is None:
        raise multihost.SettingsError("name the master: set MULTIHOST_ADDRESS, or give --address")
    return where, read_authkey(os.environ)


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
