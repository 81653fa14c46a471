"""On a real model, the options that lm-eval chooses are ours, item by item."""

from __future__ import annotations

import logging

import pytest
import torch
from places import MIRROR
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.grading.text import choice
from shaped_eval.sampling.likelihood import OptionScorer, chosen_option, option_requests
from smollm2 import MODEL, needs_smollm2, real
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [
    real,
    needs_smollm2,
    pytest.mark.skipif(not MIRROR.is_dir(), reason="needs the data sets in ../shared/hub"),
    # lm-eval's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
BENCHMARKS = ["piqa", "winogrande", "openbookqa", "arc_easy"]
EACH = 75
METRICS = ("acc", "acc_norm")


def plain(model, tokenizer, context: str, continuation: str) -> float:
    """The log-likelihood of one option, without lm-eval, batches or padding.

    Spaces between the two are scored with the continuation, as lm-eval does.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    prompt = tokenizer(context)["input_ids"]
    ids = torch.tensor([tokenizer(context + continuation)["input_ids"]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].float().log_softmax(-1)
    return sum(log_probs[i - 1, ids[0, i]].item() for i in range(len(prompt), ids.shape[1]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_300_choices_of_lm_eval_are_ours_to_the_item_in_float32():
    """lm-eval with its own loading and batches; ours with those of a run; and some by hand."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    problems = load_problems(BENCHMARKS, hub_mirror=MIRROR, limit=EACH)
    assert len(problems) == EACH * len(BENCHMARKS)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ours = OptionScorer(model, tokenizer, 16, 2048).score(problems)
    lm = HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=5)
    requests = [option_requests(problem) for problem in problems]
    instances = [
        Instance("loglikelihood", {}, pair, index)
        for pairs in requests
        for index, pair in enumerate(pairs)
    ]
    values = iter(lm.loglikelihood(instances, disable_tqdm=True))
    theirs = [[next(values)[0] for _ in pairs] for pairs in requests]
    chosen = []
    for problem, mine, other in zip(problems, ours, theirs, strict=True):
        assert mine.loglikelihoods == pytest.approx(other, abs=1e-3)
        for metric in METRICS:
            problem.meta["metric"] = metric
            letters = [chosen_option(problem, each) for each in (mine.loglikelihoods, other)]
            assert letters[0] == letters[1], (problem.problem_id, metric)
            chosen.append(choice.grade(letters[0], problem.gold)[0] == "pass")
    for problem, mine, pairs in list(zip(problems, ours, requests, strict=True))[::30]:
        by_hand = [plain(model, tokenizer, *pair) for pair in pairs]
        assert mine.loglikelihoods == pytest.approx(by_hand, abs=1e-3), problem.problem_id
    assert 0.3 < sum(chosen) / len(chosen) < 0.8  # it is better than chance, and not perfect
