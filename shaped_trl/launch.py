"""`train` and `rlvr` on many processes: they start `accelerate launch` if a recipe asks for it.

    the command                     imports nothing heavy, passes signals on, ends what is left
      python -m shaped_trl.launch   accelerate's launcher with torch's elastic agent
        shaped_trl.cli, once a rank

A rank that fails writes the cause into the folder that the variable `CAUSES` names; the launcher
prints the first cause once. The variable also marks all processes of a command, so that the command
finds those whose agent was killed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line

from shaped_trl.run_record import MAY_CHANGE

CAUSES = "SHAPED_TRL_CAUSES"
CONTINUES = "the same command continues from the last checkpoint"
# `accelerate launch` and torchrun set these variables in the processes that they start.
LAUNCHED = ("RANK", "LOCAL_RANK")
# The agent sends its ranks SIGTERM, and SIGKILL 30 s later. Then the command ends what is left.
GRACE_S = 40.0
# All ranks find the same user's error. The others wait this long before they print it, so that the
# first one prints it and ends them all.
SAME_ERROR_S = 10.0
KILLED = {signal.SIGKILL: "SIGKILL; often the kernel, for lack of memory"}


@dataclass
class LaunchArguments:
    """How many processes run the command.

    The number of processes does not change what a run computes. These options have no effect in a
    process that a launcher has started.
    """

    num_processes: Annotated[int | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Number of processes on all machines together, one for each device. This "
            "command starts them. By default it is 1."
        },
    )
    accelerate_config: Annotated[str | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "How the processes share the work: ddp (the default), fsdp2, zero3, tp, or "
            "the path of a file that `accelerate config` has written."
        },
    )
    num_machines: Annotated[int | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Number of machines, by default 1. Run the same command on each of them, with "
            "its own machine_rank."
        },
    )
    machine_rank: Annotated[int | None, MAY_CHANGE] = field(
        default=None, metadata={"help": "Number of this machine, counted from 0."}
    )
    main_process_ip: Annotated[str | None, MAY_CHANGE] = field(
        default=None, metadata={"help": "Address of machine 0."}
    )
    main_process_port: Annotated[int | None, MAY_CHANGE] = field(
        default=None,
        metadata={"help": "Port on machine 0. On a single machine a free port is chosen."},
    )
    max_restarts: Annotated[int | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "How often all processes start again from the last checkpoint after a "
            "failure. By default they do not."
        },
    )

    @property
    def starts_processes(self) -> bool:
        return (
            (self.num_processes or 1) > 1
            or self.accelerate_config is not None
            or (self.num_machines or 1) > 1
        )


NAMES = [option.name for option in fields(LaunchArguments)]


def launch(command: str, argv: Sequence[str], config: str | None) -> int | None:
    """Run `command` in several processes if the recipe or the command line asks for them.

    Returns:
        The exit code of the processes. None if there is nothing to start; then the caller does the
        work itself.

    Raises:
        UserError: a launch option has a value that is not allowed.
    """
    if any(name in os.environ for name in LAUNCHED):
        _stay_together()
        return None
    if is_on("dry_run", config, argv):
        return None
    options = launch_options(argv, config)
    if not options.starts_processes:
        return None
    with tempfile.TemporaryDirectory(prefix="shaped-trl-") as causes:
        words = [*launcher_arguments(options), "-m", "shaped_trl.cli", command, *argv]
        return _supervise([sys.executable, "-m", "shaped_trl.launch", *words], causes)


def is_on(option: str, config: str | None, words: Sequence[str]) -> bool:
    """Whether the recipe or the command line, which wins, turns an option on.

    It is asked before the options are parsed, since others follow from it.
    """
    from shaped_trl import recipes

    value: object = recipes.load(recipes.find(config)).get(option) if config else None
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        name, equals, given = word.partition("=")
        if name == f"--{option}":
            value = given if equals else "true" if following.startswith("--") else following
    return str(value).lower() in ("true", "yes", "1", "t", "y")


def _stay_together() -> None:
    """On a machine without a GPU, make accelerate use gloo; otherwise each rank would run alone.

    Raises:
        UserError: the recipe asks for DeepSpeed, which needs a GPU.
    """
    import torch

    if torch.accelerator.is_available():
        return
    if "ACCELERATE_USE_DEEPSPEED" not in os.environ:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    elif "DS_ACCELERATOR" not in os.environ:  # which makes DeepSpeed run on a CPU
        raise UserError(
            "accelerate_config='zero3' (DeepSpeed) needs a GPU: use fsdp2 on this machine, which "
            "shards in the same way"
        )


def launch_options(argv: Sequence[str], config: str | None) -> LaunchArguments:
    """The launch options of a recipe and of the command line, which wins."""
    from shaped_trl import recipes

    given: dict[str, Any] = recipes.load(recipes.find(config)) if config else {}
    given = {name: given[name] for name in NAMES if given.get(name) is not None}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:] in NAMES:
            given[name[2:]] = value if equals else following
    for name, least in {
        "num_processes": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "max_restarts": 0,
    }.items():
        given |= {name: _number(name, given[name], least)} if name in given else {}
    if "main_process_port" in given:
        given["main_process_port"] = _number("main_process_port", given["main_process_port"], 0)
    options = LaunchArguments(**given)
    machines = options.num_machines or 1
    if machines > 1:
        missing = [name for name in NAMES[:1] + NAMES[3:6] if getattr(options, name) is None]
        if missing:
            raise UserError(
                f"num_machines={machines} needs {', '.join(missing)} as well: give each machine "
                "its own machine_rank, and all of them the same values of the others"
            )
        assert options.num_processes is not None
        if options.num_processes % machines:
            raise UserError(
                f"num_processes={options.num_processes} must be a multiple of "
                f"num_machines={machines}"
            )
    return options


def _number(name: str, value: Any, least: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
    return number


def launcher_arguments(options: LaunchArguments) -> list[str]:
    """The arguments of `accelerate launch` that come before the command.

    Raises:
        UserError: there is no such configuration of accelerate.
    """
    if options.accelerate_config:
        words = ["--config_file", str(find_config(options.accelerate_config))]
    else:
        # This flag starts several processes on a machine without GPUs, too.
        words = ["--multi_gpu"]
    if options.main_process_port is None:
        words += ["--main_process_port", "0"]
    for name in NAMES:
        value = getattr(options, name)
        if name != "accelerate_config" and value is not None:
            words += [f"--{name}", str(value)]
    return words


def find_config(name: str) -> Path:
    """The file of a configuration of accelerate, which is given by its path or its shipped name.

    Raises:
        UserError: there is neither such a file nor such a name.
    """
    from shaped_trl import recipes

    shipped = recipes.ROOT / recipes.ACCELERATE
    for path in (Path(name), shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise UserError(
        f"accelerate_config={name!r} is neither a file nor one of the shipped names: {names}"
    )


def _supervise(command: list[str], causes: str) -> int:
    """Run `command`, pass signals on to it, leave no process behind, and return its exit code."""
    stopped_at: float | None = None
    stopped_by: int | None = None

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped_at, stopped_by
        # a second signal ends the wait
        stopped_at, stopped_by = time.monotonic() - (GRACE_S if stopped_by else 0.0), number
        child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # In a session of its own, so that Ctrl-C reaches this process only, which passes it on once.
    child = subprocess.Popen(command, env=os.environ | {CAUSES: causes}, start_new_session=True)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        while child.poll() is None:
            if stopped_at is not None and time.monotonic() - stopped_at > GRACE_S:
                break
            time.sleep(0.1)
    finally:
        _end_all(causes)
        for number, handler in before.items():
            signal.signal(number, handler)
    code = child.wait()
    if stopped_by is not None:
        by_hand = stopped_by == signal.SIGINT
        cause = "interrupted" if by_hand else f"ended by {signal.Signals(stopped_by).name}"
        print(f"\nshaped-trl: {cause}; {CONTINUES}", file=sys.stderr)
        return 128 + stopped_by
    if code < 0:
        print(
            f"shaped-trl: error: the launcher was {_how_it_ended(code)}; {CONTINUES}",
            file=sys.stderr,
        )
        return 1
    return code


def _end_all(causes: str) -> None:
    """Kill every process that still has `causes` in its environment."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(CAUSES) == causes:
                process.kill()
        except psutil.Error:  # it has ended, or is another user's
            continue


def note_failure(error: BaseException) -> None:
    """Write this rank's failure down for the launcher, if there is one.

    The earliest failure is the cause of the others.
    """
    folder = os.environ.get(CAUSES)
    if folder is None:
        return
    text = one_line(str(error))
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    row: dict[str, Any] = {
        "time": time.time(),
        "rank": int(os.environ.get("RANK", 0)),
        "text": text,
    }
    row["user"] = isinstance(error, UserError)
    row["attempt"] = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    path = Path(folder) / f"{row['rank']}-{row['attempt']}.json"
    path.write_text(json.dumps(row), encoding="utf-8")


def print_user_error(error: UserError) -> None:
    """Print a user's error as one line. Of several ranks, only the first or the launcher does."""
    note_failure(error)
    if CAUSES in os.environ:
        return
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(SAME_ERROR_S)
    print(f"shaped-trl: error: {one_line(str(error))}", file=sys.stderr)


def end_with_parent(number: int) -> None:
    """Make the kernel send `number` to this process when its parent ends, in any way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    number = signal.Signals(-code)
    return f"killed by {KILLED.get(number, number.name)}"


def _agent(argv: list[str]) -> int:
    """Run `accelerate launch`, and print one line instead of its traceback."""
    end_with_parent(signal.SIGTERM)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # the agent logs signals and failures at length
    args = launch_command_parser().parse_args(argv)
    try:
        launch_command(args)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _print_cause(failure.exitcode, f"rank {rank}")
    except subprocess.CalledProcessError as error:  # the launcher of a single process raises it
        return _print_cause(error.returncode, "the process")
    except (ValueError, ImportError, ConnectionError) as error:
        # accelerate refuses the configuration, DeepSpeed is not installed, or the port is in use
        print(f"shaped-trl: error: accelerate: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def _print_cause(code: int, who: str) -> int:
    """Print the first cause. Returns exit code 2 if it is a user's error, 1 otherwise.

    A rank that was killed leaves no note. The notes of the others then only say that it is gone.
    """
    notes = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in Path(os.environ[CAUSES]).glob("*.json")
    ]
    first = min(notes, key=lambda row: (-row["attempt"], row["time"]), default=None)
    killed = code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
    if killed or first is None:
        print(f"shaped-trl: error: {who} was {_how_it_ended(code)}; {CONTINUES}", file=sys.stderr)
    elif first["user"]:
        print(f"shaped-trl: error: {first['text']}", file=sys.stderr)
        return 2
    else:
        print(
            f"shaped-trl: error: rank {first['rank']}: {first['text']}; {CONTINUES}",
            file=sys.stderr,
        )
    return 1


if __name__ == "__main__":
    sys.exit(_agent(sys.argv[1:]))
