"""The pool of grading processes: order and reuse, and robustness to hostile items and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from places import ROOT
from shaped_eval.errors import UserError
from shaped_eval.grading import GRADERS, Grade, GradeRequest, GraderPool, GraderSpec, grader_spec
from shaped_eval.grading import pool as pool_module
from shaped_eval.grading.worker import answer
from waiting import wait_until

ENDLESS = GradeRequest("math", r"\boxed{9^{9^{9^{9}}}}", "5")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def math_request(number: int, gold: int | None = None) -> GradeRequest:
    return GradeRequest(
        "math", f"\\boxed{{{number}+\\sqrt{{4}}}}", str(number + 2 if gold is None else gold)
    )


def ticks(pid: int) -> int:
    """Processor time of a process in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_grades_come_in_order_and_equal_gradings_are_done_once():
    requests = [math_request(i % 7, gold=4) for i in range(50)]
    requests.insert(3, GradeRequest("gsm8k", "#### 5", "5"))
    requests.insert(9, GradeRequest("gsm8k", "none", "5"))
    called: list[tuple[int, Grade]] = []
    with GraderPool(2) as pool:
        grades = pool.grade(requests, on_done=lambda index, grade: called.append((index, grade)))
    expected = ["pass" if i % 7 == 2 else "fail" for i in range(50)]
    expected.insert(3, "pass")
    expected.insert(9, "unparsed")
    assert [grade.status for grade in grades] == expected
    assert sorted(called) == list(enumerate(grades))
    assert len({id(grade) for grade in grades}) == 9  # 7 sums and 2 others


@pytest.mark.slow
def test_a_stream_is_read_no_further_than_its_window_and_nothing_holds_it_up():
    """One endless item occupies one of two workers for 2 seconds; all others are done by then."""
    read, done, ahead, statuses = 0, 0, 0, {}

    def requests():
        nonlocal read
        for number in range(5_000):
            read += 1
            yield ENDLESS if number == 10 else math_request(number % 50, gold=number // 500)

    def on_done(index: int, grade: Grade) -> None:
        nonlocal done, ahead
        done += 1
        ahead = max(ahead, read - done)
        statuses[index] = grade.status

    with GraderPool(2, soft_timeout_s=2.0, hard_timeout_s=60.0) as pool:
        pool.grade_stream(requests(), on_done)
    assert (read, done, len(statuses)) == (5_000, 5_000, 5_000)
    assert ahead <= pool_module.WINDOW_REQUESTS
    assert statuses.pop(10) == "timeout"
    passes = sum(status == "pass" for status in statuses.values())
    assert passes == sum(
        (number % 50) + 2 == number // 500 for number in range(5_000) if number != 10
    )
    assert not pool._workers or all(worker.job is None for worker in pool._workers)


def test_a_stream_that_raises_leaves_the_pool_usable():
    def requests():
        yield from [math_request(1), ENDLESS, math_request(2)]
        raise FileNotFoundError("the file went away")

    with GraderPool(2) as pool:
        with pytest.raises(FileNotFoundError, match="went away"):
            pool.grade_stream(requests(), lambda index, grade: None)
        assert not [worker for worker in pool._workers if worker.job]
        assert pool.grade([math_request(3)])[0].status == "pass"


def test_workers_stay_between_calls_and_from_other_threads():
    with GraderPool(1) as pool:
        pool.grade([math_request(1)])
        pid = pool._workers[0].pid
        grades: list[Grade] = []
        thread = threading.Thread(
            target=lambda: grades.extend(pool.grade([math_request(2), math_request(3, 4)]))
        )
        thread.start()
        thread.join()
        assert [grade.status for grade in grades] == ["pass", "fail"]
        assert pool._workers[0].pid == pid


def test_grading_in_place_starts_no_process():
    with GraderPool() as pool:
        assert pool.grade([GradeRequest("gsm8k", "#### 5", "5")]) == [Grade("pass", "5")]
        assert pool.grade([]) == []
        assert pool._nursery is None


def test_the_soft_and_the_hard_timeout_each_end_an_item_by_themselves():
    with GraderPool(1, soft_timeout_s=0.3, hard_timeout_s=3600.0) as pool:
        pool.grade([math_request(1)])
        assert pool.grade([ENDLESS]) == [Grade("timeout", None)]
    with GraderPool(1, soft_timeout_s=3599.0, hard_timeout_s=3600.0) as pool:
        pool.grade([math_request(1)])
        pool._hard_timeout_s = 0.5  # far below the soft limit, so that only the parent can stop it
        assert pool.grade([ENDLESS]) == [Grade("timeout", None)]
        pool._hard_timeout_s = 3600.0
        assert pool.grade([math_request(2)])[0].status == "pass"


@pytest.mark.slow
@linux
@pytest.mark.parametrize(("kills", "statuses"), [(1, ["pass", "timeout"]), (2, ["error", "pass"])])
def test_an_item_whose_worker_is_killed_is_tried_once_more(kills, statuses):
    with GraderPool(1, soft_timeout_s=4.0, hard_timeout_s=60.0) as pool:
        pool.grade([math_request(1)])
        killed: list[int] = []

        def kill() -> None:
            for _ in range(kills):

                def endless() -> list[int]:
                    return [w.pid for w in pool._workers if w.job and w.job.request == ENDLESS]

                wait_until(lambda: set(endless()) - set(killed))
                killed.extend(endless())
                os.kill(killed[-1], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        grades = pool.grade([ENDLESS, math_request(2)])
        killer.join()
        assert sorted(grade.status for grade in grades) == statuses
        assert len(set(killed)) == kills
        assert not any(map(is_running, killed))


@pytest.mark.slow
@linux
def test_a_worker_or_the_nursery_killed_between_calls_costs_no_grade():
    with GraderPool(2) as pool:
        pool.grade([math_request(i) for i in range(20)])
        assert pool._nursery is not None
        for victim in (pool._workers[0].pid, pool._nursery._process.pid):
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: not is_running(victim))
            assert {grade.status for grade in pool.grade([math_request(i) for i in range(20)])} == {
                "pass"
            }


def test_memory_above_the_limit_is_no_pass_and_no_crash_of_the_caller():
    with GraderPool(1, memory_limit_mb=1) as pool:  # nothing more can be allocated
        matrix = r"\begin{pmatrix}" + r" \\ ".join(["1 & 2 & x^7"] * 30) + r"\end{pmatrix}"
        assert pool.grade([GradeRequest("math", f"\\boxed{{{matrix}}}", "5")])[0].status != "pass"


def test_a_grader_that_raises_is_an_error(monkeypatch):
    def broken(completion: str, gold: str):
        raise MemoryError

    monkeypatch.setitem(GRADERS, "broken", GraderSpec("nowhere:broken", "broken/1"))
    monkeypatch.setattr(pool_module, "load", lambda path: broken)
    assert GraderPool(1).grade([GradeRequest("broken", "a", "b")]) == [Grade("error", None)]
    monkeypatch.setattr("shaped_eval.grading.worker.load", lambda path: broken)
    assert answer("broken", "a", "b", 1.0) == {"status": "error", "answer": None}


def test_an_exception_in_the_callback_leaves_the_pool_usable():
    def stop(index: int, grade: Grade) -> None:
        raise KeyboardInterrupt

    with GraderPool(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.grade([ENDLESS, math_request(1), math_request(2)], on_done=stop)
        assert not [worker for worker in pool._workers if worker.job]
        assert pool.grade([math_request(3)])[0].status == "pass"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_workers": 0}, "num_workers=0"),
        ({"soft_timeout_s": 0.0}, "soft_timeout_s=0.0"),
        ({"soft_timeout_s": 6.0}, "hard_timeout_s=6.0"),
        ({"memory_limit_mb": 0}, "memory_limit_mb=0"),
    ],
)
def test_bad_limits_are_refused(arguments, field):
    with pytest.raises(UserError, match=field):
        GraderPool(**arguments)


# grader: gold, a completion that is right, another gold
def chain_sum(index: int) -> str:
    return json.dumps({"task": "chain_sum", "size": 2, "seed": 3, "index": index, "config": None})


def doubled(expected: str) -> str:
    """A contest problem: print the double of the number 3."""
    case = {"input": "3\n", "output": f"{expected}\n", "testtype": "stdin"}
    return json.dumps({"function": "", "public": json.dumps([case]), "private": "[]"})


OWN_GOLDS = {
    "choice": ("B", "The answer is (B)", "A"),
    "contest": (doubled("6"), "```python\nprint(2 * int(input()))\n```", doubled("7")),
    "code": ("assert f() == 1", "def f(): return 1", "assert f() == 2"),
    "exact_match": ("Paris", "Paris", "London"),
    "gsm8k": ("18", "#### 18", "19"),
    "math": (r"\frac{\sqrt{2}}{2}", r"\boxed{1/\sqrt{2}}", "1"),
    "reasoning_gym": (chain_sum(0), "Answer: 214", chain_sum(1)),
    "running_sums": ("6 6 3", "answer 6 6 3", "1 2 3"),
    "text": ("The Eiffel Tower", "eiffel tower", "the Louvre"),
}


# the word lists of ifeval are not at hand everywhere: see test_ifeval.py
@pytest.mark.parametrize("name", sorted(set(GRADERS) - {"ifeval"}))
def test_each_grader_exists_and_passes_its_own_gold(name):
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    gold, completion, other = OWN_GOLDS[name]
    with GraderPool(1) as pool:
        right, wrong = pool.grade(
            [GradeRequest(name, completion, gold), GradeRequest(name, completion, other)]
        )
    assert (right.status, wrong.status) == ("pass", "fail")
    assert right.answer is not None
    assert GRADERS[name].version.startswith(f"{name}/")


def test_an_unknown_grader_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"grader='maths' does not exist: use one of choice, code, .*text"
    ):
        grader_spec("maths")


SCRIPT = """
import os, signal, sys, time
# a shell that starts its jobs in the background makes them ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {root!r})
import torch
from shaped_eval.grading import GradeRequest, GraderPool
torch.ones(64, 64) @ torch.ones(64, 64)
pool = GraderPool(2, soft_timeout_s=50.0, hard_timeout_s=60.0)
normal = GradeRequest("math", "\\\\boxed{{1+\\\\sqrt{{4}}}}", "3")
assert [grade.status for grade in pool.grade([normal, normal._replace(gold="4")])] == ["pass", "fail"]
print("started", pool._nursery._process.pid, *[worker.pid for worker in pool._workers], flush=True)
{end}
"""
GRADE_FOREVER = (
    'pool.grade([GradeRequest("math", "\\\\boxed{9^{9^{9^{9}}}}", str(i)) for i in range(4)])'
)


def start_script(tmp_path: Path, end: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A script without a main guard, beside torch; returns it and its grading processes' ids."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT / "eval_suite"), end=end))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if words[:1] != ["started"]:
        raise AssertionError(process.communicate()[1])
    return process, [int(pid) for pid in words[1:]]


@pytest.mark.slow
@linux
def test_a_script_without_main_guard_and_without_close_ends_and_leaves_nothing(tmp_path):
    process, pids = start_script(tmp_path, end="")
    output, errors = process.communicate()
    assert process.returncode == 0
    assert output + errors == ""  # it ran once: no worker imported the script again
    wait_until(lambda: not any(map(is_running, pids)))


@linux
@pytest.mark.parametrize(("signum", "returncode"), [(signal.SIGINT, 130), (signal.SIGKILL, 137)])
def test_ctrl_c_or_a_kill_while_grading_leaves_no_process(tmp_path, signum, returncode):
    process, pids = start_script(tmp_path, end=GRADE_FOREVER)
    before = sum(map(ticks, pids))
    wait_until(lambda: sum(map(ticks, pids)) > before + 10)  # the workers are busy
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # to the workers too, as a terminal does
    else:
        process.kill()
    process.communicate()
    assert process.returncode in (-signum, returncode)
    wait_until(lambda: not any(map(is_running, pids)))
