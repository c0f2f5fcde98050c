"""The command line: ``python -m multihost``, or ``multihost`` where it is installed.

click only reads the arguments. What a command leads to is done after click has returned: a program that runs in this
process shall not have its own exceptions taken for click's.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

import multihost
from multihost import letters
from multihost.errors import JournalFull
from multihost.settings import Address, ExitCode, parse_address, read_authkey, read_settings

# What is to be done once the arguments are read; gives the exit code.
Action = Callable[[], int]

address_option = click.option(
    "--address", metavar="HOST:PORT", help="The master's address; in place of MULTIHOST_ADDRESS."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object a line, with all that is known."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(multihost.__version__, message="multihost %(version)s")
def commands() -> None:
    """Python's multiprocessing across many hosts."""


@commands.command(context_settings={"allow_interspersed_args": False})
@address_option
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
@address_option
@json_option
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


@commands.command()
@address_option
@json_option
def status(address: str | None, as_json: bool) -> Action:
    """Tell what the master, its sessions and its workers have counted and measured.

    Counts of tasks are since the journal began, and of sessions, like all times, since the master was started.
    """

    def action() -> int:
        from multihost.client.monitor import ask_status
        from multihost.status import words

        told = ask_status(*_master(address))
        print(json.dumps(told) if as_json else words(told))
        return ExitCode.OK

    return action


letter_number = click.IntRange(1, 1 << 62)


@commands.group()
def dead() -> None:
    """Look at the tasks that were given up, and decide what becomes of them.

    A task whose process died three times is a dead letter: its name, arguments and code stay with the master.
    """


@dead.command("list")
@address_option
@json_option
def list_letters(address: str | None, as_json: bool) -> Action:
    """List all dead letters, oldest first."""

    def action() -> int:
        from multihost.client.monitor import list_dead_letters

        for letter in list_dead_letters(*_master(address)):
            print(json.dumps(letter) if as_json else letters.line(letter))
        return ExitCode.OK

    return action


@dead.command()
@address_option
@json_option
@click.option("--save", metavar="FILE", help="Write the task to FILE, for `replay`.")
@click.argument("letter", type=letter_number)
def show(address: str | None, as_json: bool, save: str | None, letter: int) -> Action:
    """Print the certificate of LETTER: each death with its worker, memory, last output and stack."""

    def action() -> int:
        from multihost.client.monitor import fetch_dead_letter, show_dead_letter

        if save is not None:
            saved = fetch_dead_letter(*_master(address), letter)
            try:
                if saved is not None:
                    saved.write(Path(save))
            except OSError as error:
                return _tell(error, 2)
            told = None if saved is None else saved.told
        else:
            told = show_dead_letter(*_master(address), letter)
        if told is None:
            return _tell(LookupError(f"dead letter {letter}: there is no such dead letter"), 1)
        print(json.dumps(letters.plain(told)) if as_json else letters.certificate(told))
        return ExitCode.OK

    return action


@dead.command()
@address_option
@json_option
@click.option("--all", "every", is_flag=True, help="All dead letters; not those that were requeued.")
@click.argument("numbers", metavar="LETTER...", type=letter_number, nargs=-1)
def requeue(address: str | None, as_json: bool, every: bool, numbers: tuple[int, ...]) -> Action:
    """Run LETTERs again, each as a task of a session of the master's own.

    Nobody gets the result: the program that made the call was told WorkerDied. `dead list` tells what came of it.
    """
    _check_chosen(every, numbers)
    done = "requeued; nobody gets its result, and `dead list` tells what comes of it"
    return lambda: _change("requeue", address, as_json, every, numbers, done)


@dead.command()
@address_option
@json_option
@click.option("--all", "every", is_flag=True, help="All dead letters; not those that run again.")
@click.argument("numbers", metavar="LETTER...", type=letter_number, nargs=-1)
def drop(address: str | None, as_json: bool, every: bool, numbers: tuple[int, ...]) -> Action:
    """Forget LETTERs: certificate, arguments and code. One that was requeued is cancelled."""
    _check_chosen(every, numbers)
    return lambda: _change("drop", address, as_json, every, numbers, "dropped")


def _check_chosen(every: bool, numbers: tuple[int, ...]) -> None:
    if every == bool(numbers):
        raise click.UsageError("name dead letters by their numbers, or all of them by --all")


def _change(what: str, address: str | None, as_json: bool, every: bool, numbers: tuple[int, ...], done: str) -> int:
    from multihost.client.monitor import change_dead_letters, list_dead_letters

    master = _master(address)
    chosen = [*numbers]
    if every:
        states = ("dead",) if what == "requeue" else ("dead", "done", "failed")
        chosen = [letter["letter"] for letter in list_dead_letters(*master) if letter["state"] in states]
    code: int = ExitCode.OK
    for number, problem in change_dead_letters(*master, what, chosen):
        if as_json:
            print(json.dumps({"letter": number, "problem": problem}))
        elif not problem:
            print(f"dead letter {number}: {done}")
        if problem:
            code = _tell(ValueError(f"dead letter {number}: {problem}"), 1)
    return code


@commands.command()
@click.option("--no-debugger", is_flag=True, help="Only run it.")
@click.argument("file")
def replay(no_debugger: bool, file: str) -> Action:
    """Run the task that `dead show --save` wrote to FILE, here, under pdb.

    The cluster has no part in it. pdb stops at the first line of the function, and where it raises. The exit code is 0
    if the function returned, 1 if it raised, 2 if there is nothing that can be run. What is in the file is code: run
    only what you trust.
    """

    def action() -> int:
        from multihost import replay as replaying
        from multihost import saved

        try:
            task = saved.read(Path(file))
            print(f"multihost: {letters.line(task.told)}", file=sys.stderr)
            return replaying.replay(task, debugger=not no_debugger)
        except (saved.NotSavedTask, replaying.CannotReplay) as error:
            return _tell(error, 2)

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
    except JournalFull as error:
        return _tell(error, ExitCode.JOURNAL)
    except multihost.SettingsError as error:
        return _tell(error, ExitCode.SETTINGS)
    except multihost.AuthenticationError as error:
        return _tell(error, ExitCode.REFUSED)


def _tell(error: Exception, code: int) -> int:
    print(f"multihost: {error}", file=sys.stderr)
    return code
