"""`shaped-trl mirror` against a stand-in of the Hub, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import client_environment, commit_id, hub_stand_in
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.errors import UserError
from shaped_eval.hub.mirror import mirror
from shaped_eval.sources import load_rows
from waiting import wait_until

from shaped_trl import cli

pytestmark = pytest.mark.slow

GSM8K = {
    split: [{"question": f"{split} {i} é?", "answer": f"So.\n#### {i}"} for i in range(count)]
    for split, count in (("train", 5), ("test", 3))
}
AIME = {"train": [{"problem_idx": i, "problem": f"Find $w_{i}$.", "answer": i} for i in (1, 2)]}
OPENBOOK = {
    "test": [
        {
            "id": "7-1",
            "question_stem": "Water is",
            "choices": {"text": ["wet", "dry", "hot", "red"], "label": list("ABCD")},
            "answerKey": "A",
        }
    ]
}


def files(config: str, splits: dict, licence: str = "mit") -> dict[str, bytes]:
    """A data set's repository: a card that names the files, and the rows."""
    named = [f"  - split: {split}\n    path: {config}/{split}.jsonl\n" for split in splits]
    card = f"---\nlicense: {licence}\nconfigs:\n- config_name: {config}\n  data_files:\n"
    rows = {
        f"{config}/{split}.jsonl": "".join(json.dumps(row) + "\n" for row in content).encode()
        for split, content in splits.items()
    }
    return {"README.md": (card + "".join(named) + "---\n").encode(), **rows}


@pytest.fixture
def hub():
    with hub_stand_in() as server:
        server.files["dataset", "openai/gsm8k"] = files("main", GSM8K)
        server.files["dataset", "MathArena/aime_2026"] = files("default", AIME, "cc-by-nc-sa-4.0")
        yield server


def command(hub, tmp_path: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | client_environment(hub, tmp_path / "home")
    line = [sys.executable, "-m", "shaped_trl.cli", "mirror", "--out", str(tmp_path / "m"), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(hub, tmp_path: Path, *words: str) -> tuple[int, list[str], str]:
    process = command(hub, tmp_path, *words)
    out, err = process.communicate()
    return process.returncode, out.splitlines(), err


def rows_below(folder: Path) -> dict[str, list]:
    return {
        str(path.relative_to(folder)): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.rglob("*.jsonl"))
    }


EXPECTED = {
    "MathArena/aime_2026/default/train.jsonl": AIME["train"],
    "openai/gsm8k/main/test.jsonl": GSM8K["test"],
    "openai/gsm8k/main/train.jsonl": GSM8K["train"],
}


def test_a_killed_command_continues_and_ends_with_the_same_files(hub, tmp_path):
    words = ["--benchmarks", "gsm8k,aime26"]
    process = command(hub, tmp_path, *words)
    wait_until(lambda: (tmp_path / "m" / "mirror.json").exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, lines, err = run(hub, tmp_path, *words)
    assert code == 0, err
    assert lines[-1] == str(tmp_path / "m")
    assert rows_below(tmp_path / "m") == EXPECTED
    assert not list((tmp_path / "m").rglob("*.tmp"))
    record = json.loads((tmp_path / "m" / "mirror.json").read_text())
    assert set(record) == set(EXPECTED)
    for path, known in record.items():
        owner, name, *_ = path.split("/")
        assert known["revision"] == commit_id(hub.files["dataset", f"{owner}/{name}"])
        assert known["sha256"] == hashlib.sha256((tmp_path / "m" / path).read_bytes()).hexdigest()
        assert known["rows"] == len(EXPECTED[path])
        assert known["licence"] == ("mit" if owner == "openai" else "cc-by-nc-sa-4.0")
    code, lines, _ = run(hub, tmp_path, *words)
    assert lines[:-1] == [f"{path}: kept" for path in sorted(EXPECTED, key=lambda p: p[0] == "M")]


def test_what_it_wrote_is_read_by_the_loaders(hub, tmp_path):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    hub.files["dataset", "allenai/openbookqa"] = files("main", OPENBOOK)
    code, _, err = run(
        hub, tmp_path, "--benchmarks", "aime26,openbookqa", "--datasets", "openai/gsm8k:main"
    )
    assert code == 0, err
    names = ["gsm8k", "aime26", "openbookqa"]
    problems = load_problems(names, hub_mirror=tmp_path / "m")
    assert [problem.gold for problem in problems] == ["0", "1", "2", "1", "2", "(A) wet"]
    assert "train 3 é?" in problems[0].prompt
    assert load_rows("openai/gsm8k", "main", "test", tmp_path / "m") == GSM8K["test"]


def test_all_files_of_a_data_set_are_of_one_revision(hub, tmp_path):
    key = "dataset", "openai/gsm8k"
    assert run(hub, tmp_path, "--datasets", "openai/gsm8k:main:test")[0] == 0
    hub.branches[key, "before"] = hub.files[key]
    hub.files[key] = files("main", {name: rows[:1] for name, rows in GSM8K.items()})
    assert run(hub, tmp_path, "--datasets", "openai/gsm8k:main")[0] == 0
    found = rows_below(tmp_path / "m")
    assert found == {path: rows for path, rows in EXPECTED.items() if "gsm8k" in path}


def test_a_refusal_is_one_line_and_what_was_written_stays(hub, tmp_path):
    words = ["--datasets", "openai/gsm8k:main:test,me/none:main:test"]
    code, lines, err = run(hub, tmp_path, *words)
    (error,) = [line for line in err.splitlines() if line.startswith("shaped-trl: error: ")]
    assert (code, len(lines)) == (2, 1)
    assert "data set 'me/none' cannot be read" in error
    assert "Traceback" not in err
    assert list(rows_below(tmp_path / "m")) == ["openai/gsm8k/main/test.jsonl"]


def test_an_unknown_data_set_is_found_before_anything_is_written(hub, tmp_path):
    code, lines, err = run(hub, tmp_path, "--datasets", "openai/gsm8k:main:test,me/none")
    assert (code, lines) == (2, [])
    assert "data set 'me/none' cannot be read" in err
    assert rows_below(tmp_path / "m") == {}


def test_a_gated_data_set_is_explained_in_the_words_of_datasets(monkeypatch, tmp_path, capsys):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*args):
        raise DatasetNotFoundError("'me/gated' is a gated dataset on the Hub.\nAsk for access.")

    monkeypatch.setattr(datasets, "get_dataset_split_names", refuse)
    assert cli.main(["mirror", "--out", str(tmp_path / "m"), "--datasets", "me/gated"]) == 2
    error = capsys.readouterr().err
    assert "cannot be read: 'me/gated' is a gated dataset on the Hub. Ask for access.;" in error
    assert len(error.splitlines()) == 1


def test_files_of_others_are_kept_and_changed_ones_are_named(tmp_path, capsys):
    path = tmp_path / "openai/gsm8k/main/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    mirror("", "openai/gsm8k:main:test", tmp_path)
    assert capsys.readouterr().out == "openai/gsm8k/main/test.jsonl: kept\n"
    known = {"revision": "a" * 40, "sha256": "b" * 64}
    record = tmp_path / "mirror.json"
    record.write_text(json.dumps({"openai/gsm8k/main/test.jsonl": known}))
    with pytest.raises(UserError, match=r"test.jsonl' has changed since it was written"):
        mirror("", "openai/gsm8k:main:test", tmp_path)
    record.write_text('{"openai/gsm8k/main/test.jsonl": 3}')
    with pytest.raises(UserError, match=r"mirror.json.*lacks its revision or sha256"):
        mirror("", "openai/gsm8k:main:test", tmp_path)
    assert path.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name --benchmarks or --datasets"),
        (["--benchmarks", "gsm8j"], "did you mean 'gsm8k'"),
        (["--datasets", "../../etc:main:test"], "datasets='../../etc:main:test'"),
        (["--datasets", "a/b/c"], "datasets='a/b/c::'"),
        (["--datasets", "a/b:..:test"], "datasets='a/b:..:test'"),
        (["--datasets", "a/b:c:d:e"], "write id, id:config or id:config:split"),
    ],
)
def test_what_cannot_be_mirrored_is_one_line(words, message, tmp_path, capsys):
    assert cli.main(["mirror", "--out", str(tmp_path / "m"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
