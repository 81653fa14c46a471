"""Foreign runs and studies: no name in them becomes a path, and no link is written through."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from graded_runs import write_run
from shaped_eval.checkpoints import evaluate_checkpoints
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_answers, grade_run
from shaped_eval.hub.entries import read_variants
from shaped_eval.publish import PublishOptions, publish
from shaped_eval.records import append_jsonl, drop_truncated_line, write_atomic
from shaped_eval.report import compare, report, report_run
from shaped_eval.untrusted.files import file_name, own_folder, replacing

from shaped_trl.study.report import report_study

HOSTILE = [
    "../../escaped",
    "/tmp/escaped",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\nb",
    "a\0b",
    "-x",
    ".hidden",
    "x" * 300,
    "é",
]


@pytest.fixture
def outside(tmp_path) -> Path:
    """A file that must not be changed; runs are in a folder beside it."""
    path = tmp_path / "outside.txt"
    path.write_text("mine, without a last newline")
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    "name", ["gsm8k", "mmlu_pro", "bbh-navigate", "avg_at_16", "n16_t0.7", "v1.2+a=b"]
)
def test_plain_names_stay_what_they_are(name):
    assert file_name(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_other_names_are_one_part_of_a_path(name, tmp_path):
    part = file_name(name)
    assert (tmp_path / part).resolve().parent == tmp_path.resolve()
    (tmp_path / f"{part}.png").write_bytes(b"")
    assert file_name(part) == part


def test_names_that_look_alike_get_files_of_their_own():
    assert len({file_name(name) for name in [*HOSTILE, "a-b", "a b", "a//b"]}) == len(HOSTILE) + 3


@pytest.mark.parametrize("benchmark", ["../../../escaped", "x" * 250])
def test_a_benchmark_is_no_path(benchmark, tmp_path, capsys):
    mine = tmp_path / "deep" / "mine"
    runs = [
        write_run(mine / name, {benchmark: ["ppaa", "paaa"]}, answers="../../x.jsonl")
        for name in "ab"
    ]
    report(runs)
    compare(*runs, out=mine / "compared")
    publish(runs[:1], PublishOptions(publish_to=str(own_model(mine))))
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"mine"}
    assert not Path(f"{benchmark}.png").exists()
    for folder in (runs[0], mine / "comparison", mine / "compared"):
        assert any(folder.glob("*.png")), folder


def own_model(place: Path) -> Path:
    folder = place / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "report.md.tmp",
        "report.md",
        "report.html",
        "results.json",
        "pass_at_k_gsm8k.png",
        "solve_rates_gsm8k.png",
    ],
)
def test_a_report_is_not_written_through_a_link(name, tmp_path, outside):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppaa"]})
    (run / name).symlink_to(outside)
    report_run(run)
    assert outside.read_text() == "mine, without a last newline"
    assert not (run / "report.md").is_symlink()
    assert "gsm8k" in (run / "report.md").read_text()


def test_verdicts_are_not_appended_through_a_link(tmp_path, outside):
    run = write_run(tmp_path / "run", {"math": ["pp"]}, n=2)
    (run / "verdicts.jsonl").unlink()
    (run / "verdicts.jsonl").symlink_to(outside)
    with pytest.raises(
        UserError, match=r"verdicts.jsonl' is a symbolic link, and nothing is written through links"
    ):
        grade_run(run, num_workers=1)
    assert outside.read_text() == "mine, without a last newline"


def test_answers_are_not_written_through_links(tmp_path, outside):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("problems.jsonl.new", "samples.jsonl.new", "run.json.tmp", "run.json"):
        (out / name).symlink_to(outside)
    (tmp_path / "answers.jsonl").write_text(
        '{"problem_id": "a", "completions": ["7"], "gold": "7"}\n'
    )
    grade_answers(tmp_path / "answers.jsonl", "text", out, num_workers=1, progress=False)
    assert outside.read_text() == "mine, without a last newline"
    assert json.loads((out / "run.json").read_text())["benchmarks"] == ["text"]


@pytest.mark.parametrize("name", ["hub", "hub/model", "hub/samples"])
def test_nothing_is_published_into_a_folder_that_is_a_link(name, tmp_path, monkeypatch):
    run, elsewhere = write_run(tmp_path / "run", {"gsm8k": ["ppaa"]}), tmp_path / "elsewhere"
    elsewhere.mkdir()
    report_run(run)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere)
    monkeypatch.setattr("shaped_eval.publish._check_repository", lambda repo_id: None)
    monkeypatch.setattr("shaped_eval.publish._push", lambda *args: [])
    with pytest.raises(UserError, match="is a symbolic link"):
        publish([run], PublishOptions(push_to_hub="me/model"))
    assert tree(elsewhere) == {}


@pytest.mark.parametrize("to", ["checkpoint", "run/hub/model"])
@pytest.mark.parametrize("target", ["private.md", "not there"])
def test_a_card_that_is_a_link_is_not_published(to, target, tmp_path, monkeypatch):
    run, card = write_run(tmp_path / "run", {"gsm8k": ["ppaa"]}), tmp_path / to / "README.md"
    report_run(run)
    card.parent.mkdir(parents=True)
    (card.parent / "config.json").write_text("{}")
    (tmp_path / "private.md").write_text("my password")
    card.symlink_to(tmp_path / target)
    sent = []
    monkeypatch.setattr("shaped_eval.publish._check_repository", lambda repo_id: None)
    monkeypatch.setattr("shaped_eval.publish._push", lambda *args: sent.append(args) or [])
    options = {"publish_to": str(card.parent)} if to == "checkpoint" else {}
    with pytest.raises(UserError, match=r"README.md' is a symbolic link"):
        publish([run], PublishOptions(push_to_hub="me/model", **options))
    assert card.is_symlink()
    assert sent == []
    assert (tmp_path / "private.md").read_text() == "my password"
    assert [path.name for path in card.parent.iterdir() if path != card] == ["config.json"]


def test_settings_of_a_run_are_no_path_either(tmp_path):
    run = write_run(
        tmp_path / "run", {"gsm8k": ["ppaa"]}, max_new_tokens="1/../../x", answers="../-->.jsonl"
    )
    [variant] = read_variants(run, report_run(run))
    assert "/" not in variant.slug
    assert ">" not in variant.slug
    [plain] = read_variants(
        *(lambda folder: (folder, report_run(folder)))(write_run(tmp_path / "b", {"nq": ["pa"]}, 2))
    )
    assert plain.slug == "nq_n2_t0.7"


def test_a_studys_report_is_not_written_through_a_link(tmp_path):
    from planted_study import write_planted

    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_planted(study)
    (study / "report").symlink_to(elsewhere)
    with pytest.raises(UserError, match="report' is a symbolic link"):
        report_study(study)
    assert tree(elsewhere) == {}


def test_the_curves_of_checkpoints_stay_in_their_folder(tmp_path, monkeypatch):
    """Sampling is replaced by a graded run of a hostile benchmark."""
    model, out = tmp_path / "model" / "checkpoint-5", tmp_path / "deep" / "out"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "trainer_state.json").write_text('{"max_steps": 5, "global_step": 5}')

    def sampled(config, **_):
        folder = write_run(Path(config.out), {"../../escaped": ["ppaa"]})
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "benchmarks": [], "task_hash": ""}))
        return folder

    from shaped_eval.config import SampleConfig

    monkeypatch.setattr("shaped_eval.checkpoints.sample", sampled)
    monkeypatch.setattr("shaped_eval.checkpoints.grade_run", lambda folder, **_: None)
    evaluate_checkpoints(SampleConfig(model=str(model.parent), benchmarks="gsm8k", out=str(out)))
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    assert len(list(out.glob("steps_*.png"))) == 1


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as file:
        file.writelines(["half" * 100_000, "\ud800"])
    assert tree(tmp_path) == {"a.txt": b"old"}
    with replacing(path, "wb") as file:
        file.write(b"\xff")
    assert tree(tmp_path) == {"a.txt": b"\xff"}
    names = set()
    for _ in range(3):
        with replacing(path) as file:
            names.add(file.name)
    assert len(names) == 3


def test_what_a_killed_process_left_is_removed_and_what_is_written_now_is_not(tmp_path):
    path = tmp_path / "a.txt"
    left, held, other = (
        tmp_path / f"{name}.{digit * 16}.tmp"
        for name, digit in (("a.txt", "0"), ("a.txt", "1"), ("b", "2"))
    )
    for one in (left, held, other):
        one.write_text("half")
    with open(held) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(path, "new")
    assert set(tree(tmp_path)) == {"a.txt", held.name, other.name}
    write_atomic(path, "new")
    assert set(tree(tmp_path)) == {"a.txt", other.name}


def test_files_written_in_place_are_no_links(tmp_path, outside):
    link, dangling = tmp_path / "samples.jsonl", tmp_path / "dangling.jsonl"
    link.symlink_to(outside)
    dangling.symlink_to(tmp_path / "new.jsonl")
    for write in (
        lambda: append_jsonl(link, [{"a": 1}]),
        lambda: append_jsonl(dangling, []),
        lambda: drop_truncated_line(link),
    ):
        with pytest.raises(UserError, match="symbolic link"):
            write()
    with pytest.raises(UserError, match="symbolic link"):
        own_folder(tmp_path, "samples.jsonl", "below")
    assert not (tmp_path / "new.jsonl").exists()
    assert outside.read_text() == "mine, without a last newline"
