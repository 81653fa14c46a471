"""One process per folder: a second is refused, death releases the lock, failures are reported."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.untrusted import locks
from shaped_eval.untrusted.locks import LOCK, lock, locked_folder, locked_folders

from shaped_trl import cli

HOLDER = """
import os, sys, time
from shaped_eval.untrusted.locks import locked_folder
with locked_folder(sys.argv[1]):
    child = os.fork()
    if child == 0:  # which has let go by now
        print(os.getpid(), flush=True)
    time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    """A lock that is held is refused at once."""
    monkeypatch.setattr(locks, "GRACE_S", 0.0)


def test_a_killed_process_holds_nothing_even_where_what_it_forked_lives_on(tmp_path, monkeypatch):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(holder.stdout.readline())
    try:
        with (
            pytest.raises(UserError, match="is in use by another shaped-trl process"),
            locked_folder(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # it is still running
        with locked_folder(tmp_path):
            assert (tmp_path / LOCK).is_file()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()
    assert not (tmp_path / LOCK).exists()


def test_one_who_opened_the_file_before_it_was_removed_gets_no_lock_of_its_own(
    tmp_path, monkeypatch
):
    """The holder removes the file, and a lock on the removed file would protect nothing."""
    real, opened = locks._open, []

    def open_and_let_the_holder_end(path):
        descriptor = real(path)
        if not opened:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(locks, "_open", open_and_let_the_holder_end)
    with lock(tmp_path / LOCK):
        assert len(opened) == 2
        assert os.path.samestat(os.fstat(opened[-1]), os.stat(tmp_path / LOCK))


def test_a_folder_that_was_made_for_the_lock_does_not_stay(tmp_path):
    with pytest.raises(UserError, match="no benchmark"), locked_folder(tmp_path / "a" / "b"):
        raise UserError("no benchmark")
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "run.json").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run.json"]


def test_each_folder_is_held_once_whatever_it_is_called(tmp_path):
    with locked_folders([tmp_path, f"{tmp_path}/.", str(tmp_path)]):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(number, tmp_path, monkeypatch, capsys):
    def refuse(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked_folder(tmp_path):
        pass
    assert f"{tmp_path}: this file system has no locks" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, *how, **more):
        if str(path).endswith(LOCK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(
            UserError, match=r"output_dir='.*' cannot be written: Read-only file system: .*/\.lock"
        ),
        locked_folder(tmp_path, "output_dir"),
    ):
        pass


def test_a_lock_goes_through_no_link_and_takes_no_other_thing(tmp_path):
    target = tmp_path / "target"
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(target)
    for make in (lambda: None, lambda: os.mkfifo(run / LOCK), (run / LOCK).mkdir):
        make()
        with pytest.raises(UserError, match=rf"out='{run}' cannot be written"), locked_folder(run):
            pass
        (run / LOCK).rmdir() if (run / LOCK).is_dir() else (run / LOCK).unlink()
    assert not target.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["grade", "RUN"],
        ["report", "RUN"],
        ["report", "OTHER", "RUN"],
        ["compare", "OTHER", "OTHER", "--out", "RUN"],
        ["eval", "--model", "m", "--benchmarks", "gsm8k", "--out", "RUN"],
        ["sample", "--model", "m", "--benchmarks", "gsm8k", "--out", "RUN"],
        ["grade", "--answers", "RUN/samples.jsonl", "--benchmark", "math", "--out", "RUN"],
    ],
    ids=" ".join,
)
def test_a_second_command_at_a_run_is_refused(command, tmp_path, capsys):
    run, other = (write_run(tmp_path / name, {"gsm8k": ["ppab"]}) for name in ("run", "other"))
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    words = [word.replace("RUN", str(run)).replace("OTHER", str(other)) for word in command]
    with locked_folder(run):
        assert cli.main(words) == 2
        (run / LOCK).stat()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"{str(run)!r} is in use by another shaped-trl process" in lines[0]
    assert {
        path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()
    } == before


COMMANDS = {
    "eval": ["eval", "--model", "gpt2", "--benchmarks", "gsm8k", "--out"],
    "grade": ["grade", "--answers", "x.jsonl", "--benchmark", "math", "--out"],
    "report": ["report", "run", "--out"],
    "compare": ["compare", "a", "b", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("out", "reason"),
    [("/proc/0/out", "No such file or directory"), ("x" * 300, "File name too long")],
    ids=["in a place without folders", "too long"],
)
def test_a_folder_that_cannot_be_made_is_named_in_one_line(command, out, reason, capsys):
    assert cli.main([*COMMANDS[command], out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"shaped-trl: error: out='{out[:12]}"[:34])
    assert reason in line
    assert len(line) < 300
