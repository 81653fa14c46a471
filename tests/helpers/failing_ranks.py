"""A light stand-in for `shaped_trl.cli` that fails in a given way: `failing_ranks.py HOW`."""

from __future__ import annotations

import os
import signal
import sys
import time

from shaped_eval.errors import UserError

from shaped_trl.launch import note_failure, print_user_error


def main(how: str) -> int:
    first = os.environ["RANK"] == "0"
    if how == "user":
        print_user_error(UserError("beta=-2 is below -1"))
        return 2
    if first:  # waits as in a collective
        time.sleep(100_000)
    if how == "raise":
        note_failure(RuntimeError("the second\nrank's"))
        raise RuntimeError
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "loss":  # a peer's error follows its cause
        note_failure(ConnectionError("closed by peer"))
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
