"""One command, many processes: `train` and `rlvr` start `accelerate launch` themselves where a
recipe asks for it.

    the command                     light: nothing heavy is imported; passes signals on, ends what is left
      python -m shaped_trl.launch   accelerate's launcher with torch's elastic agent; says the first cause once
        shaped_trl.cli, once a rank

A rank that fails leaves its cause in the folder that `CAUSES` names. The variable is also how the
command finds every process of its own, those of ranks whose agent was killed included.
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
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line

CAUSES = "SHAPED_TRL_CAUSES"
CONTINUES = "the same command continues from the last checkpoint"
# set by `accelerate launch` and torchrun in what they start
LAUNCHED = ("RANK", "LOCAL_RANK")
# the agent sends its ranks SIGTERM, and SIGKILL 30 s later; then the command ends what is left
GRACE_S = 40.0
# how long a rank but the first keeps a user's error to itself: the first one's is the same, and
# ends them all
SAME_ERROR_S = 10.0
KILLED = {signal.SIGKILL: "SIGKILL; often the kernel, for lack of memory"}


@dataclass
class LaunchArguments:
    """How many processes run the command; without effect in a process that a launcher started."""

    num_processes: int | None = field(
        default=None,
        metadata={
            "help": "Processes on all machines together, one a device; they are started here."
        },
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "ddp, fsdp2, zero3, tp (recipes/accelerate) or a file of `accelerate config`; without: ddp."
        },
    )
    num_machines: int | None = field(
        default=None, metadata={"help": "Machines; the command is run on each."}
    )
    machine_rank: int | None = field(
        default=None, metadata={"help": "Number of this machine, from 0."}
    )
    main_process_ip: str | None = field(default=None, metadata={"help": "Address of machine 0."})
    main_process_port: int | None = field(
        default=None, metadata={"help": "Port there; on one machine a free one."}
    )
    max_restarts: int | None = field(
        default=None,
        metadata={"help": "How often all start again after a failure, from the last checkpoint."},
    )

    @property
    def asked(self) -> bool:
        return (
            (self.num_processes or 1) > 1
            or self.accelerate_config is not None
            or (self.num_machines or 1) > 1
        )


NAMES = [option.name for option in fields(LaunchArguments)]


def launch(command: str, argv: Sequence[str], config: str | None) -> int | None:
    """Run `command` in the processes that the recipe or the command line ask for, and return their
    exit code.

    None where there is nothing to start: the caller is to do the work itself.

    Raises:
        UserError: a value of a launch option that cannot be.
    """
    if any(name in os.environ for name in LAUNCHED):
        _stay_together()
        return None
    if _only_looks(argv):
        return None
    options = wanted(argv, config)
    if not options.asked:
        return None
    with tempfile.TemporaryDirectory(prefix="shaped-trl-") as causes:
        words = [*launcher_arguments(options), "-m", "shaped_trl.cli", command, *argv]
        return _supervise([sys.executable, "-m", "shaped_trl.launch", *words], causes)


def _stay_together() -> None:
    """Where there is no GPU, have accelerate use gloo: it would let each rank run alone.

    Raises:
        UserError: DeepSpeed is asked for there.
    """
    import torch

    if torch.accelerator.is_available():
        return
    if "ACCELERATE_USE_DEEPSPEED" not in os.environ:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    elif "DS_ACCELERATOR" not in os.environ:  # by which DeepSpeed's own users ask for it
        raise UserError(
            "DeepSpeed (zero3) needs a GPU: on this machine take accelerate_config: fsdp2, which divides alike"
        )


def _only_looks(argv: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in ("-h", "--help", "--dry_run") for word in argv)


def wanted(argv: Sequence[str], config: str | None) -> LaunchArguments:
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
                f"num_machines={machines} needs {', '.join(missing)} as well, the same but machine_rank"
            )
        assert options.num_processes is not None
        if options.num_processes % machines:
            raise UserError(
                f"num_processes={options.num_processes} must be a multiple of num_machines={machines}"
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
    """What `accelerate launch` gets before the command.

    Raises:
        UserError: there is no such configuration of accelerate.
    """
    words = (
        ["--config_file", str(find_config(options.accelerate_config))]
        if options.accelerate_config
        else []
    )
    if not words:
        # on a machine without GPUs as well: what starts processes is the same
        words = ["--multi_gpu"]
    if options.main_process_port is None:
        words += ["--main_process_port", "0"]
    for name in NAMES:
        value = getattr(options, name)
        if name != "accelerate_config" and value is not None:
            words += [f"--{name}", str(value)]
    return words


def find_config(name: str) -> Path:
    """The file of a configuration of accelerate given by path or shipped name.

    Raises:
        UserError: neither.
    """
    from shaped_trl import recipes

    shipped = recipes.ROOT / recipes.ACCELERATE
    for path in (Path(name), shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise UserError(f"accelerate_config={name!r}: no such file; shipped are {names}")


def _supervise(command: list[str], causes: str) -> int:
    """Exit code of `command`; signals are passed on to it, and no process of it is left behind."""
    stopped_at: float | None = None
    stopped_by: int | None = None

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped_at, stopped_by
        # a second one does not wait any longer
        stopped_at, stopped_by = time.monotonic() - (GRACE_S if stopped_by else 0.0), number
        child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # a group of its own: Ctrl-C comes to this process alone, which passes it on once
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
        said = (
            "interrupted"
            if stopped_by == signal.SIGINT
            else f"ended by {signal.Signals(stopped_by).name}"
        )
        print(f"\nshaped-trl: {said}; {CONTINUES}", file=sys.stderr)
        return 128 + stopped_by
    if code < 0:
        print(f"shaped-trl: error: the launcher was {_ended(code)}; {CONTINUES}", file=sys.stderr)
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


def note(error: BaseException) -> None:
    """Leave this rank's failure for the agent, where there is one; the earliest is the cause of the
    others."""
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


def say(error: UserError) -> None:
    """Print a user's error as one line, once: the agent's, or the first rank's."""
    note(error)
    if CAUSES in os.environ:
        return
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(SAME_ERROR_S)
    print(f"shaped-trl: error: {one_line(str(error))}", file=sys.stderr)


def end_with_parent(number: int) -> None:
    """Have this process get signal `number` when its parent ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    number = signal.Signals(-code)
    return f"killed by {KILLED.get(number, number.name)}"


def _agent(argv: list[str]) -> int:
    """`accelerate launch` with one line in place of a traceback."""
    end_with_parent(signal.SIGTERM)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # the agent's own account of signals and failures
    args = launch_command_parser().parse_args(argv)
    try:
        launch_command(args)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _say_cause(failure.exitcode, f"rank {rank}")
    except subprocess.CalledProcessError as error:  # of the launcher of one process
        return _say_cause(error.returncode, "the process")
    except (ValueError, ImportError, ConnectionError) as error:
        # a configuration that accelerate refuses, DeepSpeed that is not installed, a port in use
        print(f"shaped-trl: error: accelerate: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def _say_cause(code: int, who: str) -> int:
    """Print the first cause; exit code 2 where it is the user's, 1 otherwise.

    A rank that was killed leaves no note, and those of the others only say that it is gone.
    """
    notes = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in Path(os.environ[CAUSES]).glob("*.json")
    ]
    first = min(notes, key=lambda row: (-row["attempt"], row["time"]), default=None)
    killed = code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS)
    if killed or first is None:
        print(f"shaped-trl: error: {who} was {_ended(code)}; {CONTINUES}", file=sys.stderr)
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
