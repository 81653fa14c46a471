"""Multiple-choice problems: the sample is the letter of the option that the model finds likeliest.

The log-likelihoods of the options go to ``likelihoods.jsonl`` in the run's folder, so that another
normalization can be tried without the model. Its rows are ``{"problem_id", "loglikelihoods",
"greedy"}``, in the order of the options; `greedy` says whether greedy decoding would have produced
the option. Each of several processes writes a file of its own, ``likelihoods-RANK.jsonl``.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shaped_eval.backends import Backend, TransformersBackend
from shaped_eval.backends.prompts import from_pretrained
from shaped_eval.benchmarks.harness.problems import LETTERS
from shaped_eval.config import ASKED_TOGETHER
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, Sample, append_jsonl, drop_truncated_line, read_jsonl
from shaped_eval.untrusted.rows import check_field

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig
    from shaped_eval.sampling.chunks import Chunk


LOGITS_TOGETHER = 2**21  # of one token of each option: 4 GB of float32 for options of 512 tokens


class Likelihoods(NamedTuple):
    """For each option: its log-likelihood in nats, and whether greedy decoding would produce it."""

    loglikelihoods: list[float]
    greedy: list[bool]


def is_likelihood(problem: Problem) -> bool:
    """Whether the problem's sample is chosen by likelihood instead of being generated."""
    return problem.meta.get("decoding") == "likelihood"


def chosen_option(problem: Problem, loglikelihoods: Sequence[float]) -> str:
    """Letter of the option with the highest log-likelihood, or the first of several such options.

    Log-likelihoods are divided by the option's length in characters if the metric is ``acc_norm``.
    """
    lengths = [1] * len(loglikelihoods)
    if problem.meta["metric"] == "acc_norm":
        lengths = [max(1, len(option)) for option in problem.meta["options"]]
    values = [value / length for value, length in zip(loglikelihoods, lengths, strict=True)]
    return LETTERS[values.index(max(values))]


class OptionScorer:
    """lm-eval's scoring with a causal language model of transformers, which is left unchanged.

    `batch_size` options are scored at once. Where prompt and option together exceed the context,
    the beginning is cut. Log-probabilities are summed in float32, whatever the dtype of the
    weights.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, context_tokens: int | None
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        # it would warn about every option whose beginning is cut
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
        """The likelihoods of all options of each problem.

        Their last digits depend on which options are scored together.

        Raises:
            UserError: one is NaN, or none of a problem is finite: the model is broken.
        """
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
            _check_finite(problem, [value for value, _ in pairs])
            results.append(
                Likelihoods([value for value, _ in pairs], [greedy for _, greedy in pairs])
            )
        return results


def _check_finite(problem: Problem, loglikelihoods: Sequence[float]) -> None:
    if any(map(math.isnan, loglikelihoods)) or not any(map(math.isfinite, loglikelihoods)):
        raise UserError(
            f"{problem.problem_id}: the model gives its options the log-likelihoods "
            f"{loglikelihoods}: its logits are not finite, as with weights that training has "
            "ruined, or with a dtype that is too small for them: try --dtype float32"
        )


def option_requests(problem: Problem) -> list[tuple[str, str]]:
    """The context and the continuation that are scored for each option."""
    continuations = problem.meta["continuations"]
    contexts = problem.meta.get("contexts") or [problem.prompt] * len(continuations)
    return list(zip(contexts, continuations, strict=True))


def score_chunks(
    config: SampleConfig, backend: Backend, chunks: Sequence[Chunk], path: Path
) -> Iterator[list[Sample]]:
    """Yield the samples of each chunk, in order, after writing their likelihoods to `path`.

    The weights are those of `backend` if it is a transformers backend. Otherwise they are loaded
    here, and released when all chunks are scored.
    """
    if not chunks:
        return
    drop_truncated_line(path)
    written = set(read_jsonl(path, _problem_id)) if path.exists() else set()
    scorer = option_scorer(config, backend)
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
    if not isinstance(backend, TransformersBackend):
        del scorer
        _free_memory()


def _free_memory() -> None:
    """Give the device's memory back: vLLM refuses to start where less is free than it wants."""
    import torch

    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _problem_id(row: dict[str, Any]) -> str:
    check_field("problem_id", row.get("problem_id"), lambda value: isinstance(value, str), "a text")
    return row["problem_id"]


def likelihoods_file(folder: Path, rank: int, num_processes: int) -> Path:
    return folder / ("likelihoods.jsonl" if num_processes == 1 else f"likelihoods-{rank}.jsonl")


def check_scoring(
    backend: str, problems: Sequence[Problem], chat: bool = False, quiet: bool = False
) -> None:
    """Raise UserError if options are to be scored but the model is only available on a server.

    With `chat` and without `quiet`, print that the chat template has no effect on these problems.
    """
    names = list(dict.fromkeys(problem.benchmark for problem in problems if is_likelihood(problem)))
    if names and chat and not quiet:
        print(
            f"chat_template=True has no effect on {', '.join(names)}: their options are scored by "
            "likelihood, with lm-eval's prompts for base models",
            file=sys.stderr,
        )
    if names and backend == "openai":
        raise UserError(
            f"benchmarks: the options of {', '.join(names)} are scored by likelihood, which "
            "backend='openai' does not support: use --backend transformers, or leave these "
            "benchmarks out"
        )


def takes_turns(backend: str, chunks: Sequence[Chunk], done: set[int]) -> bool:
    """Whether options must be scored before the backend takes the device.

    vLLM takes nearly all of the device's memory and does not score options.
    """
    return backend == "vllm" and any(
        chunk.decoding == "likelihood" for index, chunk in enumerate(chunks) if index not in done
    )


def option_scorer(config: SampleConfig, backend: Backend) -> OptionScorer:
    """Scores with the weights of a transformers backend; otherwise they are loaded here."""
    if isinstance(backend, TransformersBackend):
        model = backend.model
        # a copy, because lm-eval adds a pad token
        tokenizer = copy.deepcopy(backend.tokenizer)
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = (
            from_pretrained(AutoModelForCausalLM, config, dtype=config.dtype)
            .eval()
            .to(backend.device)
        )
        tokenizer = from_pretrained(AutoTokenizer, config)
    together = config.fixed_batch_size or scored_together(model.config)
    return OptionScorer(model, tokenizer, together, backend.context_tokens())


def scored_together(model_config: Any) -> int:
    """How many options are scored at once by default.

    Their logits fill most of the memory, so that there are fewer with a vocabulary of more than
    65,536 tokens. The number does not depend on the free memory, since the last digits of the
    likelihoods depend on it.
    """
    vocabulary = model_config.get_text_config().vocab_size
    return max(1, min(ASKED_TOGETHER, LOGITS_TOGETHER // vocabulary))
