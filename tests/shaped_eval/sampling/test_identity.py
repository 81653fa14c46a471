"""Runs of an earlier version of the sampler: a finished one is kept, another is not continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.provenance import stable_hash
from shaped_eval.report import compare, report
from shaped_eval.sample import sample

SEEDED_BY_BATCH = 32  # the default batch size of version 1


def as_version_1(folder: Path, batch_size: int) -> None:
    """Rewrite run.json as version 1 wrote it."""
    record = json.loads((folder / "run.json").read_text())
    del record["settings"]["sampler"], record["batches"]
    record["settings"]["batch_size"] = batch_size
    parts = [record["model_identity"], record["task_hash"], record["settings"]]
    record["sampling_hash"] = stable_hash(parts)
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("given", ["auto", 4])
def test_a_finished_run_of_version_1_is_left_as_it_is(make_config, given):
    config = make_config(batch_size=given)
    folder = sample(config)
    as_version_1(folder, SEEDED_BY_BATCH if given == "auto" else given)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    shuffled = "".join(lines[5:] + lines[:5])  # the problems stood in another order
    (folder / "samples.jsonl").write_text(shuffled)
    before = (folder / "run.json").read_bytes()
    assert sample(config) == folder
    assert (folder / "samples.jsonl").read_text() == shuffled
    assert (folder / "run.json").read_bytes() == before


def test_an_unfinished_run_of_version_1_is_refused_and_can_be_reported(make_config, capsys):
    config = make_config(batch_size="auto")
    folder = sample(config)
    as_version_1(folder, SEEDED_BY_BATCH)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    cut = "".join(lines[:13])
    (folder / "samples.jsonl").write_text(cut)
    said = r"begun with version 1 of the sampler, and version 2 draws other samples: choose another"
    with pytest.raises(UserError, match=said) as error:
        sample(config)
    assert "\n" not in str(error.value)
    assert (folder / "samples.jsonl").read_text() == cut
    grade_run(folder, num_workers=1, progress=False)
    with pytest.raises(UserError, match="of n=5 samples: repeat the sample command"):
        report([folder])
    text = report([folder], interrupted=True)
    assert "the run was interrupted. 4 of 6 problems lack samples or verdicts" in text
    results = json.loads((folder / "results.json").read_text())
    assert results["gsm8k"]["problems"] == 2


def test_other_settings_are_named_before_the_version(make_config):
    folder = sample(make_config(batch_size=4, limit=1))
    as_version_1(folder, 4)
    with pytest.raises(UserError, match=r"^n=6, but the run in .* has 5"):
        sample(make_config(batch_size=4, limit=1, n=6))
    with pytest.raises(UserError, match=r"^batch_size=5, but the run in .* has 4"):
        sample(make_config(batch_size=5, limit=1))


def test_a_comparison_warns_of_two_versions(make_config):
    folders = [sample(make_config(name)) for name in ("a", "b", "c")]
    as_version_1(folders[1], 2)
    for folder in folders:
        grade_run(folder, num_workers=1, progress=False)
    warned = "drawn by different versions of the sampler"
    assert warned in compare(folders[0], folders[1])
    assert warned not in compare(folders[0], folders[2])


def test_an_interrupted_run_without_a_whole_problem_has_nothing_to_report(make_config):
    folder = sample(make_config())
    grade_run(folder, num_workers=1, progress=False)
    (folder / "verdicts.jsonl").write_text("")
    with pytest.raises(
        UserError, match=r"no problem of .* has all its samples and verdicts: grade"
    ):
        report([folder], interrupted=True)
