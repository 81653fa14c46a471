"""Problems whose options are scored: the sample is the letter of the option that the model finds
likeliest.

The log-likelihood of each option goes to ``likelihoods.jsonl`` of the run's folder, so that another
norm can be tried without the model: rows ``{"problem_id", "loglikelihoods", "greedy"}``, in the
options' order; `greedy` says whether the option is what the model would have written. Several
processes write files of their own, ``likelihoods-RANK.jsonl``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shaped_eval.backends import Backend, TransformersBackend
from shaped_eval.backends.prompts import from_pretrained
from shaped_eval.benchmarks.harness.problems import LETTERS
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, Sample, append_jsonl, drop_truncated_line, read_jsonl
from shaped_eval.untrusted.rows import check_field

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig
    from shaped_eval.sampling.chunks import Chunk


class Likelihoods(NamedTuple):
    """Of each option: log-likelihood in nats, and whether greedy decoding would have written it."""

    loglikelihoods: list[float]
    greedy: list[bool]


def is_likelihood(problem: Problem) -> bool:
    """Whether the problem's sample is chosen by likelihood, and not generated."""
    return problem.meta.get("decoding") == "likelihood"


def chosen_option(problem: Problem, loglikelihoods: Sequence[float]) -> str:
    """Letter of the option of the highest log-likelihood, per character of its text where the
    metric is ``acc_norm``.

    The first one where several are equal.
    """
    lengths = [1] * len(loglikelihoods)
    if problem.meta["metric"] == "acc_norm":
        lengths = [max(1, len(option)) for option in problem.meta["options"]]
    values = [value / length for value, length in zip(loglikelihoods, lengths, strict=True)]
    return LETTERS[values.index(max(values))]


class OptionScorer:
    """lm-eval's scoring by a causal language model of transformers, which is used as it is, and
    stays where it is.

    `batch_size` options are scored at once. Prompt and option that together are longer than the
    context lose the beginning. Sums of log-probabilities in float32, whatever the weights.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, context_tokens: int | None
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        # it remarks on every option that loses its beginning
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=context_tokens,
            softmax_dtype="float32",
        )

    def score(self, problems: Sequence[Problem]) -> list[Likelihoods]:
        """The likelihoods of all options of each problem; their last digits depend on what is
        scored together."""
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
            results.append(
                Likelihoods([value for value, _ in pairs], [greedy for _, greedy in pairs])
            )
        return results


def option_requests(problem: Problem) -> list[tuple[str, str]]:
    """What is scored for each option: a context and the text behind it."""
    continuations = problem.meta["continuations"]
    contexts = problem.meta.get("contexts") or [problem.prompt] * len(continuations)
    return list(zip(contexts, continuations, strict=True))


def score_chunks(
    config: SampleConfig, backend: Backend, chunks: Sequence[Chunk], path: Path
) -> Iterator[list[Sample]]:
    """The samples of each chunk of problems to score, in order; their likelihoods are in `path`
    before.

    With the weights of `backend` where it has them in transformers, else with weights of their own,
    which are gone when all chunks are scored.
    """
    if not chunks:
        return
    drop_truncated_line(path)
    written = set(read_jsonl(path, _problem_id)) if path.exists() else set()
    scorer = _scorer(config, backend)
    for chunk in chunks:
        scores = scorer.score(chunk.problems)
        pairs = list(zip(chunk.problems, scores, strict=True))
        new = [(one.problem_id, score) for one, score in pairs if one.problem_id not in written]
        append_jsonl(
            path, [{"problem_id": problem_id, **score._asdict()} for problem_id, score in new]
        )
        yield [
            Sample(one.problem_id, 0, chosen_option(one, score.loglikelihoods))
            for one, score in pairs
        ]


def _problem_id(row: dict[str, Any]) -> str:
    check_field("problem_id", row.get("problem_id"), lambda value: isinstance(value, str), "a text")
    return row["problem_id"]


def likelihoods_file(folder: Path, rank: int, num_processes: int) -> Path:
    return folder / ("likelihoods.jsonl" if num_processes == 1 else f"likelihoods-{rank}.jsonl")


def check_scoring(backend: str, problems: Sequence[Problem]) -> None:
    """Raise UserError where options are to be scored and only a server knows the model."""
    names = list(dict.fromkeys(problem.benchmark for problem in problems if is_likelihood(problem)))
    if names and backend == "openai":
        raise UserError(
            f"benchmarks: the options of {', '.join(names)} are scored by likelihood, which a server of "
            "backend='openai' does not say: use --backend transformers, or leave them out"
        )


def takes_turns(backend: str, chunks: Sequence[Chunk], done: set[int]) -> bool:
    """Whether scoring needs the device before the backend does: vLLM takes nearly all of it, and
    does not score."""
    return backend == "vllm" and any(
        chunk.decoding == "likelihood" for index, chunk in enumerate(chunks) if index not in done
    )


def _scorer(config: SampleConfig, backend: Backend) -> OptionScorer:
    if isinstance(backend, TransformersBackend):
        # lm-eval gives it a pad token
        model, tokenizer = backend.model, copy.deepcopy(backend.tokenizer)
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = (
            from_pretrained(AutoModelForCausalLM, config, dtype=config.dtype)
            .eval()
            .to(backend.device)
        )
        tokenizer = from_pretrained(AutoTokenizer, config)
    return OptionScorer(model, tokenizer, config.batch_size, backend.context_tokens())
