"""The `shaped-trl` command: it finds the command, and turns errors into lines and exit codes."""

from __future__ import annotations

import difflib
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

from shaped_eval.errors import UserError, describe_os_error
from shaped_eval.lazy import version

from shaped_trl.commands.environment import env_command
from shaped_trl.commands.evaluation import (
    compare_command,
    eval_command,
    grade_command,
    report_command,
    sample_command,
)
from shaped_trl.commands.mirror import mirror_command
from shaped_trl.commands.studies import demo_command, recipes_command, study_command
from shaped_trl.commands.training import merge_command, rlvr_command, train_command
from shaped_trl.commands.view import view_command
from shaped_trl.launch import CAUSES, end_with_parent, note_failure, print_user_error
from shaped_trl.usage import USAGE

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train_command,
    "rlvr": rlvr_command,
    "merge": merge_command,
    "eval": eval_command,
    "sample": sample_command,
    "grade": grade_command,
    "report": report_command,
    "compare": compare_command,
    "view": view_command,
    "mirror": mirror_command,
    "demo": demo_command,
    "study": study_command,
    "recipes": recipes_command,
    "env": env_command,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 for a user's error, which is one line; 130 for Ctrl-C; 141 if nobody
        reads what the command prints any more (`--dry_run | head`). If the command has started
        other processes, 1 when one of them failed, and 128 + N for signal N.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
    if CAUSES in os.environ:
        end_with_parent(signal.SIGKILL)
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command in ("-V", "--version"):
        print(f"shaped-trl {version()}")
        return 0
    # TRL 1.16 and PEFT use transformers' old name. A user of this command cannot change that.
    warnings.filterwarnings(
        "ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning
    )
    try:
        if command not in COMMANDS:
            raise UserError(_unknown(command))
        code = COMMANDS[command](argv[1:]) or 0
        if sys.stdout is not None:  # a service may have closed it
            sys.stdout.flush()
        return code
    except UserError as error:
        print_user_error(error)
        return 2
    except SystemExit as stop:  # argparse raises it after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        _print_interrupted()
        return 130
    except BrokenPipeError as error:
        if _is_read():
            note_failure(error)
            raise
        # The interpreter flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        line = describe_os_error(error) if isinstance(error, OSError) else None
        if line is not None:
            print_user_error(UserError(line))
            return 2
        note_failure(error)
        raise


def _unknown(command: str) -> str:
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown command {command!r}; choose from {', '.join(COMMANDS)}{hint}"


def _print_interrupted() -> None:
    """Say once how to go on: not in each rank, nor where a launcher says it."""
    if CAUSES not in os.environ and os.environ.get("RANK", "0") == "0":
        print(
            "\nshaped-trl: interrupted; the same command continues from what is saved",
            file=sys.stderr,
        )


def _is_read() -> bool:
    """Whether somebody still reads what this process prints."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error is reported in any case
    return not poll.poll(0)


if __name__ == "__main__":
    sys.exit(main())
