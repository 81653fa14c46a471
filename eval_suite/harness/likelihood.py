"""Problems whose options are scored: the sample is the letter of the option that the model finds likeliest.

The log-likelihood of each option goes to ``likelihoods.jsonl`` of the run's folder, for another norm to be tried without
the model: rows ``{"problem_id", "loglikelihoods", "greedy"}``, in the options' order; `greedy` says whether the option is
what the model would have written. Several processes write files of their own, ``likelihoods-RANK.jsonl``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_suite.harness.problems import LETTERS
from eval_suite.records import Problem, Sample, append_jsonl, drop_truncated_line, read_jsonl


class Likelihoods(NamedTuple):
    """Of each option: log-likelihood in nats, and whether greedy decoding would have written it."""

    loglikelihoods: list[float]
    greedy: list[bool]


def is_likelihood(problem: Problem) -> bool:
    """Whether the problem's sample is chosen by likelihood, and not generated."""
    return problem.meta.get("decoding") == "likelihood"


def chosen_option(problem: Problem, loglikelihoods: Sequence[float]) -> str:
    """Letter of the option of the highest log-likelihood, per character of its text where the metric is ``acc_norm``.

    The first one where several are equal.
    """
    lengths = [1] * len(loglikelihoods)
    if problem.meta["metric"] == "acc_norm":
        lengths = [max(1, len(option)) for option in problem.meta["options"]]
    values = [value / length for value, length in zip(loglikelihoods, lengths, strict=True)]
    return LETTERS[values.index(max(values))]


class OptionScorer:
    """lm-eval's scoring by a causal language model of transformers, which is used as it is, and stays where it is.

    `batch_size` options are scored at once. Prompt and option that together are longer than the context lose the
    beginning. Sums of log-probabilities in float32, whatever the weights.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, context_tokens: int | None) -> None:
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it remarks on every option that loses its beginning
        self._lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=context_tokens,
            softmax_dtype="float32",
        )

    def score(self, problems: Sequence[Problem]) -> list[Likelihoods]:
        """The likelihoods of all options of each problem. They depend on which problems are scored together, slightly."""
        from lm_eval.api.instance import Instance

        requests = [
            Instance("loglikelihood", {}, request, index)
            for problem in problems
            for index, request in enumerate(option_requests(problem))
        ]
        scored = iter(self._lm.loglikelihood(requests, disable_tqdm=True))
        results = []
        for problem in problems:
            pairs = [next(scored) for _ in problem.meta["continuations"]]
            results.append(Likelihoods([value for value, _ in pairs], [greedy for _, greedy in pairs]))
        return results


def option_requests(problem: Problem) -> list[tuple[str, str]]:
    """What is scored for each option: a context and the text behind it."""
    continuations = problem.meta["continuations"]
    contexts = problem.meta.get("contexts") or [problem.prompt] * len(continuations)
    return list(zip(contexts, continuations, strict=True))


def score_in_blocks(
    scorer: OptionScorer, blocks: Sequence[Sequence[Problem]], likelihoods_file: Path
) -> Iterator[tuple[int, list[Sample]]]:
    """Index and samples of each block of problems; the likelihoods are in the file before they are yielded."""
    drop_truncated_line(likelihoods_file)
    written = set()
    if likelihoods_file.exists():
        written = {row["problem_id"] for row in read_jsonl(likelihoods_file)}
    for index, block in enumerate(blocks):
        scores = scorer.score(block)
        rows = [
            {"problem_id": problem.problem_id, **score._asdict()}
            for problem, score in zip(block, scores, strict=True)
            if problem.problem_id not in written
        ]
        append_jsonl(likelihoods_file, rows)
        yield (
            index,
            [
                Sample(problem.problem_id, 0, chosen_option(problem, score.loglikelihoods))
                for problem, score in zip(block, scores, strict=True)
            ],
        )
