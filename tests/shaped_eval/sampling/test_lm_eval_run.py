"""Runs of lm-eval's benchmarks: likelihoods, resumption and the report.

Likelihoods are compared with plain transformers and with lm-eval itself.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path

import lm_eval.tasks
import pytest
import torch
from harness_data import (
    ROWS,
    write_byte_model,
    write_hellaswag,
    write_made_up_mirror,
    write_mmlu_pro_validation,
)
from places import MIRROR
from shaped_eval.backends import TransformersBackend
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.records import Problem, Sample, read_jsonl
from shaped_eval.report import report
from shaped_eval.sample import sample
from shaped_eval.sampling.fit import fit_problems
from shaped_eval.sampling.likelihood import OptionScorer, check_scoring, option_requests
from transformers import AutoModelForCausalLM, AutoTokenizer

from shaped_trl.cli import main

needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="needs the data sets in ../shared/hub"
)
LIKELIHOOD = [name for name, spec in HARNESS.items() if spec.gold is None]
GREEDY = [name for name in HARNESS if name not in LIKELIHOOD]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    return write_made_up_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder).eval(), AutoTokenizer.from_pretrained(
        model_folder
    )


def config(model_folder: Path, mirror: Path, out: Path, **changes) -> SampleConfig:
    settings = {
        "benchmarks": ",".join(HARNESS),
        "limit": 4,
        "n": 3,
        "max_new_tokens": 8,
        "hub_mirror": str(mirror),
        "batch_size": 3,
    }
    return SampleConfig(model=str(model_folder), out=str(out), **{**settings, **changes})


@pytest.fixture(scope="module")
def run(model_folder, mirror, tmp_path_factory) -> Path:
    """All thirteen benchmarks, sampled, graded and reported."""
    out = tmp_path_factory.mktemp("runs") / "run"
    sample(config(model_folder, mirror, out), progress=False)
    grade_run(out, num_workers=1, progress=False)
    report([out])
    return out


def log_likelihood(loaded, context: str, continuation: str) -> float:
    """Sum of log-probabilities of the continuation's bytes, in one pass without batching."""
    model, tokenizer = loaded
    ids = tokenizer(context + continuation, return_tensors="pt")["input_ids"]
    behind = ids.shape[1] - len(tokenizer(continuation)["input_ids"])
    with torch.no_grad():
        log_probs = model(ids).logits[0].log_softmax(-1)
    return sum(log_probs[i - 1, ids[0, i]].item() for i in range(behind, ids.shape[1]))


def test_the_option_chosen_is_the_argmax_of_plain_transformers(run, loaded):
    samples = {row.problem_id: row for row in read_jsonl(run / "samples.jsonl", Sample)}
    rows = {row["problem_id"]: row for row in read_jsonl(run / "likelihoods.jsonl")}
    problems = [p for p in read_jsonl(run / "problems.jsonl", Problem) if p.benchmark in LIKELIHOOD]
    assert len(problems) == len(rows) == 4 * len(LIKELIHOOD)
    by_norm = 0
    for problem in problems:
        options, meta = problem.meta["options"], problem.meta
        contexts = meta.get("contexts", [problem.prompt] * len(options))
        expected = [
            log_likelihood(loaded, *pair)
            for pair in zip(contexts, meta["continuations"], strict=True)
        ]
        assert rows[problem.problem_id]["loglikelihoods"] == pytest.approx(
            expected, rel=1e-4, abs=1e-3
        )
        lengths = [len(option) if meta["metric"] == "acc_norm" else 1 for option in options]
        values = [value / length for value, length in zip(expected, lengths, strict=True)]
        best = max(range(len(values)), key=values.__getitem__)
        assert samples[problem.problem_id] == Sample(
            problem.problem_id, 0, "ABCDE"[best], "stop", 0
        )
        by_norm += best != max(range(len(expected)), key=expected.__getitem__)
    assert (
        by_norm > 0
    )  # the normalization changes some choice, so the test would notice its absence


def test_texts_are_what_greedy_decoding_writes_up_to_the_stop(run, loaded):
    model, tokenizer = loaded
    samples = {row.problem_id: row for row in read_jsonl(run / "samples.jsonl", Sample)}
    for problem in read_jsonl(run / "problems.jsonl", Problem):
        if problem.benchmark not in ("nq", "triviaqa"):
            continue
        ids, written, stopped = tokenizer(problem.prompt)["input_ids"], [], False
        while len(written) < 8 and not stopped:
            with torch.no_grad():
                written.append(model(torch.tensor([ids + written])).logits[0, -1].argmax().item())
            stopped = written[-1] == 0 or "\n" in tokenizer.decode(written)
        text = tokenizer.decode(written, skip_special_tokens=True).split("\n")[0]
        expected = Sample(
            problem.problem_id, 0, text, "stop" if stopped else "length", len(written)
        )
        assert samples[problem.problem_id] == expected


def test_the_report_says_which_accuracy_of_one_sample_it_is(run):
    results = json.loads((run / "results.json").read_text())
    assert list(results) == list(HARNESS)
    for name, entry in results.items():
        assert (entry["problems"], entry["n"], entry["accuracy"]) == (4, 1, HARNESS[name].metric)
        assert set(entry["metrics"]) == {"pass@1", "avg@1", "cons@1"}
        assert entry["metrics"]["pass@1"]["sampling_se"] is None  # nothing is drawn
    text = (run / "report.md").read_text()
    assert "hellaswag (acc_norm)" in text
    assert "winogrande (acc)" in text
    assert "bbh (exact match)" in text


def test_a_second_run_changes_nothing_and_other_settings_are_refused(run, model_folder, mirror):
    before = {path.name: path.read_bytes() for path in run.glob("*.jsonl")}
    sample(config(model_folder, mirror, run), progress=False)
    assert {path.name: path.read_bytes() for path in run.glob("*.jsonl")} == before
    with pytest.raises(UserError, match="max_new_tokens=9, but the run"):
        sample(config(model_folder, mirror, run, max_new_tokens=9), progress=False)


def test_what_a_kill_leaves_is_completed_to_the_same_rows(run, model_folder, mirror, tmp_path):
    expected = {
        name: (run / name).read_bytes()
        for name in ("samples.jsonl", "likelihoods.jsonl", "problems.jsonl")
    }
    lines = expected["samples.jsonl"].splitlines(keepends=True)
    scored = expected["likelihoods.jsonl"].splitlines(keepends=True)
    for kept, half in ((0, 40), (5, 10), (31, 1), (len(lines), 0)):
        out = tmp_path / f"killed-{kept}"
        out.mkdir()
        for name in ("run.json", "problems.jsonl"):
            (out / name).write_bytes((run / name).read_bytes())
        (out / "samples.jsonl").write_bytes(
            b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:half]
        )
        (out / "likelihoods.jsonl").write_bytes(
            b"".join(scored[:kept]) + b"".join(scored[kept : kept + 1])[:half]
        )
        sample(config(model_folder, mirror, out), progress=False)
        assert {name: (out / name).read_bytes() for name in expected} == expected


def test_prompts_too_long_lose_their_beginning(model_folder, mirror, tmp_path, capsys):
    short = write_byte_model(tmp_path / "short", context_tokens=160)
    out = sample(config(short, mirror, tmp_path / "run", benchmarks="nq,siqa,bbh"), progress=False)
    said = capsys.readouterr().err
    assert (
        "nq: 4 prompts are too long for the model's context of 160 tokens; their beginning is cut"
        in said
    )
    assert "siqa" not in said
    problems = {p.problem_id: p for p in read_jsonl(out / "problems.jsonl", Problem)}
    whole = {
        p.problem_id: p for p in load_problems(["nq", "siqa", "bbh"], hub_mirror=mirror, limit=4)
    }
    for key, problem in problems.items():
        cut = problem.meta.get("cut_characters", 0)
        assert problem.prompt == whole[key].prompt[cut:]
        assert len(problem.prompt.encode()) == 152 if cut else problem == whole[key]
    assert sum("cut_characters" in p.meta for p in problems.values()) == 8
    with pytest.raises(
        UserError,
        match=r"'piqa': one option of piqa/0 alone fills the model's context of 10 tokens",
    ):
        fit_problems(load_problems(["piqa"], hub_mirror=mirror), len, 10, 8)


def test_options_are_not_scored_by_a_server(mirror, tmp_path):
    settings = {"backend": "openai", "base_url": "http://localhost:1/v1", "benchmarks": "nq,piqa"}
    with pytest.raises(
        UserError,
        match="the options of piqa are scored by likelihood, which backend='openai' does not",
    ):
        sample(config(Path("some/model"), mirror, tmp_path / "run", **settings), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_a_chat_template_that_has_no_effect_is_pointed_out(mirror, capsys, chat):
    """The options' requests are the same with and without it."""
    names = ["piqa", "nq"]
    plain, asked = (
        load_problems(names, hub_mirror=mirror, limit=2, chat=given) for given in (False, chat)
    )
    check_scoring("transformers", asked, chat)
    said = capsys.readouterr().err
    assert ("chat_template=True has no effect on piqa: " in said) == chat
    scored = [problem for problem in asked if problem.benchmark == "piqa"]
    assert list(map(option_requests, scored)) == list(map(option_requests, plain[:2]))


def test_the_command_line_shows_a_prompt_and_names_faults(mirror, model_folder, tmp_path, capfd):
    assert main(["sample", "--show", "winogrande", "--hub_mirror", str(mirror)]) == 0
    assert capfd.readouterr().out == "Ann met Bo because _ had 0 maps."
    arguments = [
        "--model",
        str(model_folder),
        "--benchmarks",
        "siqa",
        "--hub_mirror",
        str(tmp_path),
    ]
    assert main(["eval", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert "has no data set 'lighteval/siqa'" in capfd.readouterr().err


def own_accuracies(
    model_folder: Path, mirror: Path, folder: Path, places: dict[str, str], limit: int
):
    """lm-eval's own evaluation with its own reading of the files: task → its results."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    root = Path(lm_eval.tasks.__file__).parent
    manager = lm_eval.tasks.TaskManager(
        include_path=[root / HARNESS[name].folder for name in places], include_defaults=False
    )
    members = []
    for name, place in places.items():
        spec = HARNESS[name]
        files = {"data_files": {spec.split: str(mirror / place)}, "cache_dir": str(folder / name)}
        members.append(
            {
                "task": spec.task,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": files,
                "training_split": None,
                "validation_split": spec.split,
                "test_split": None,
            }
        )
    model = HFLM(pretrained=str(model_folder), device="cpu", batch_size=7, dtype="float32")
    results = simple_evaluate(
        model=model,
        tasks=[{"group": "own", "task": members}],
        task_manager=manager,
        limit=limit,
        bootstrap_iters=0,
    )
    return results["results"]


@pytest.mark.slow
@needs_mirror
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_accuracies_are_those_of_lm_eval_itself(model_folder, tmp_path, loaded):
    root = MIRROR
    hellaswag = tmp_path / "made-up"
    write_hellaswag(hellaswag)
    limit = 40
    names = [name for name in LIKELIHOOD if name != "hellaswag"]
    places = {}
    for name in names:
        spec = HARNESS[name]
        places[name] = f"{spec.dataset_id}/{spec.config or 'default'}/{spec.split}.jsonl"
    theirs = own_accuracies(model_folder, root, tmp_path, places, limit)
    made_up = {"hellaswag": "Rowan/hellaswag/default/validation.jsonl"}
    theirs |= own_accuracies(model_folder, hellaswag, tmp_path / "h", made_up, ROWS)
    ours: dict[str, list[bool]] = defaultdict(list)
    for name, mirror in [*((name, root) for name in names), ("hellaswag", hellaswag)]:
        out = sample(
            config(model_folder, mirror, tmp_path / name, benchmarks=name, limit=limit),
            progress=False,
        )
        grade_run(out, num_workers=1, progress=False)
        ours[name] = [row["status"] == "pass" for row in read_jsonl(out / "verdicts.jsonl")]
    for name in LIKELIHOOD:
        spec = HARNESS[name]
        assert sum(ours[name]) / len(ours[name]) == pytest.approx(
            theirs[spec.task][f"{spec.metric},none"]
        ), name
    assert (
        len({sum(passes) / len(passes) for passes in ours.values()}) > 4
    )  # they are not constants


@pytest.mark.slow
@needs_mirror
def test_the_command_line_ends_with_a_complete_report_on_the_mirror(tmp_path):
    """The rows are real, except those of HellaSwag and of MMLU-Pro's validation split.

    These are not in the mirror and are invented. MMLU-Redux is left out, which is not there either.
    """
    names = [name for name in HARNESS if name != "mmlu_redux"]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for path in MIRROR.iterdir():
        if path.is_dir() and path.name != "TIGER-Lab":
            (mirror / path.name).symlink_to(path)
    rows = list(read_jsonl(MIRROR / "TIGER-Lab/MMLU-Pro/default/test.jsonl"))
    write_mmlu_pro_validation(mirror, sorted({row["category"] for row in rows}))
    (mirror / "TIGER-Lab/MMLU-Pro/default/test.jsonl").symlink_to(
        MIRROR / "TIGER-Lab/MMLU-Pro/default/test.jsonl"
    )
    write_hellaswag(mirror)
    model = write_byte_model(tmp_path / "model")
    out = tmp_path / "run"
    arguments = [
        "--benchmarks",
        ",".join(names),
        "--limit",
        "4",
        "--n",
        "4",
        "--max_new_tokens",
        "64",
    ]
    folders = ["--model", str(model), "--hub_mirror", str(mirror), "--out", str(out)]
    assert main(["eval", *arguments, *folders]) == 0
    results = json.loads((out / "results.json").read_text())
    assert {
        name: (entry["problems"], entry["n"]) for name, entry in results.items()
    } == dict.fromkeys(names, (4, 1))
    tokens = [row.tokens for row in read_jsonl(out / "samples.jsonl", Sample)]
    assert max(tokens) == 64  # the run's limit, not lm-eval's
    assert (out / "report.html").is_file()


def test_the_scorer_sums_in_float32_whatever_the_weights(model_folder, mirror, loaded):
    problems = load_problems(["siqa"], hub_mirror=mirror, limit=2)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).eval()
    scores = OptionScorer(model, loaded[1], 2, 8192).score(problems)
    exact = OptionScorer(loaded[0], loaded[1], 2, 8192).score(problems)
    for rough, fine in zip(scores, exact, strict=True):
        assert rough.loglikelihoods == pytest.approx(fine.loglikelihoods, rel=0.05)
        # bfloat16 has steps of 0.25 there
        assert any(value != round(value * 8) / 8 for value in rough.loglikelihoods)


def test_a_backend_without_weights_here_gets_the_same_scores(run, model_folder, mirror, tmp_path):
    """Like vLLM, it does not score: the weights are loaded for scoring and then released."""

    class Elsewhere:
        identity, device, repeatability, together = "x", "cpu", "none", False

        def __init__(self, backend: TransformersBackend) -> None:
            self.prompt_tokens, self.context_tokens = backend.prompt_tokens, backend.context_tokens

        def prepare(self) -> None: ...

        def complete(self, requests):
            assert not list(requests)
            yield from ()

    settings = config(model_folder, mirror, tmp_path / "run", benchmarks="winogrande,arc_easy")
    out = sample(settings, progress=False, backend=Elsewhere(TransformersBackend(settings)))
    expected = [
        row
        for row in read_jsonl(run / "samples.jsonl")
        if row["problem_id"].startswith(("wino", "arc_easy"))
    ]
    assert list(read_jsonl(out / "samples.jsonl")) == expected
