"""The table of benchmarks that lm-eval defines: its task, the data set, the shots and the grader.

The numbers of shots are the paper's (arXiv 2512.22955): MMLU 4, MMLU-Pro 5 and BBH 3, all with
chains of thought; TriviaQA and NQ 5. The other benchmarks have none and are scored by likelihood.
The worked examples of MMLU and BBH are the published ones, which are part of lm-eval's definitions.
Those of MMLU-Pro are its validation split, and those of TriviaQA and NQ the first rows of the train
split. All problems of a benchmark have the same examples, while lm-eval draws others for each
document.

MMLU-Redux (arXiv 2406.04127) is MMLU's questions whose labels people have checked, without those
that they found wrong. It is asked as MMLU is, so that the two can be compared; lm-eval's own
definition of it asks for a letter without reasoning.

There are departures from lm-eval 0.4.13, each of which mends a fault:

* lm-eval puts a question mark behind each question of TriviaQA, although most have one. Here the
  question stays as it is.
* lm-eval ends a completion of TriviaQA and NQ at the first period or comma, without which 9% of
  NQ's questions cannot be answered (``J.R.R. Tolkien``, ``March 8, 2018``). Here it ends with the
  line.
* lm-eval ends a completion of BBH at any ``Q``. Here it ends at a line that begins with ``Q:``, or
  at an empty line, as in lm-eval.
* In lm-eval a completion of MMLU ends at the token limit of 256 only. Here it ends at a line that
  begins with ``Q:`` as well, and one of MMLU-Pro at a line that begins with ``Question:``.
* MMLU's description runs into the first question, and its examples write ``\\frac`` as a form feed
  and ``rac``. Here an empty line follows the description, and the examples are put right.
* The run's ``--max_new_tokens`` is the token limit of all benchmarks.
* Log-likelihoods of options are summed in float32. lm-eval takes the softmax in the dtype of the
  weights by default. With SmolLM2-135M in bfloat16, 8 of 600 choices differ for this reason; in
  float32 none does (``tests/shaped_eval/sampling/test_lm_eval_real.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
Metric = Literal["acc", "acc_norm", "exact match"]


@dataclass(frozen=True)
class HarnessTask:
    """One benchmark.

    A ``*`` in `task` and `config` stands for the names of its parts, such as MMLU's subjects.

    Args:
        folder: of lm-eval's definition.
        task: lm-eval's name of it.
        dataset_id: id of the data set on the Hub.
        config: configuration of the data set; None for the default one.
        split: the split that is evaluated.
        grader: grades the generated text or the chosen option.
        metric: ``acc`` takes the option with the highest log-likelihood, ``acc_norm`` the one with
            the highest log-likelihood per character.
        gold: row → gold answer of a generated text; None if options are scored by likelihood.
        shots: number of worked examples.
        shots_split: the split whose first rows are the examples; None if lm-eval's definition
            holds them.
        stop: strings that end a completion.
        own_id: the column with the row's id; None for the row's index.
        part_column: the column with the name of the part, if one split holds all parts.
        options: row → options, for a benchmark whose contexts contain the options.
        prompt_column: the column that is the prompt of such a benchmark.
        changes: to lm-eval's definition.
    """

    folder: str
    task: str
    dataset_id: str
    config: str | None
    split: str
    grader: str
    metric: Metric
    gold: Callable[[Row], str] | None = None
    shots: int = 0
    shots_split: str | None = None
    stop: tuple[str, ...] = ()
    own_id: str | None = None
    part_column: str | None = None
    options: Callable[[Row], list[str]] | None = None
    prompt_column: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def _options(
    folder: str,
    task: str,
    dataset_id: str,
    config: str | None,
    split: str,
    metric: Metric,
    own_id: str | None = None,
) -> HarnessTask:
    return HarnessTask(folder, task, dataset_id, config, split, "choice", metric, own_id=own_id)


HARNESS: dict[str, HarnessTask] = {
    "mmlu": HarnessTask(
        "mmlu/flan_cot_fewshot",
        "mmlu_flan_cot_fewshot_*",
        "cais/mmlu",
        "*",
        "test",
        "choice",
        "exact match",
        gold=lambda row: "ABCD"[row["answer"]],
        shots=4,
        stop=("\nQ:",),
    ),
    "mmlu_redux": HarnessTask(
        "mmlu/flan_cot_fewshot",
        "mmlu_flan_cot_fewshot_*",
        "fxmarty/mmlu-redux-2.0-ok",
        "*",
        "test",
        "choice",
        "exact match",
        gold=lambda row: "ABCD"[row["answer"]],
        shots=4,
        stop=("\nQ:",),
    ),
    "mmlu_pro": HarnessTask(
        "mmlu_pro",
        "mmlu_pro_*",
        "TIGER-Lab/MMLU-Pro",
        None,
        "test",
        "choice",
        "exact match",
        gold=lambda row: row["answer"],
        shots=5,
        shots_split="validation",
        stop=("\nQuestion:",),
        own_id="question_id",
        part_column="category",
    ),
    "triviaqa": HarnessTask(
        "triviaqa",
        "triviaqa",
        "mandarjoshi/trivia_qa",
        "rc.nocontext",
        "validation",
        "text",
        "exact match",
        gold=lambda row: _aliases([row["answer"]["value"], *row["answer"]["aliases"]]),
        shots=5,
        shots_split="train",
        stop=("\n",),
        own_id="question_id",
        changes={
            "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
            "fewshot_config": {"sampler": "first_n", "doc_to_target": "{{answer.value}}"},
        },
    ),
    "nq": HarnessTask(
        "nq_open",
        "nq_open",
        "google-research-datasets/nq_open",
        None,
        "validation",
        "text",
        "exact match",
        gold=lambda row: _aliases(row["answer"]),
        shots=5,
        shots_split="train",
        stop=("\n",),
        changes={"fewshot_config": {"sampler": "first_n"}},
    ),
    "hellaswag": _options(
        "hellaswag", "hellaswag", "Rowan/hellaswag", None, "validation", "acc_norm"
    ),
    "siqa": _options("siqa", "social_iqa", "lighteval/siqa", None, "validation", "acc"),
    "piqa": _options("piqa", "piqa", "baber/piqa", None, "validation", "acc_norm"),
    "winogrande": HarnessTask(
        "winogrande",
        "winogrande",
        "allenai/winogrande",
        "winogrande_xl",
        "validation",
        "choice",
        "acc",
        options=lambda row: [row["option1"], row["option2"]],
        prompt_column="sentence",
    ),
    "openbookqa": _options(
        "openbookqa", "openbookqa", "allenai/openbookqa", "main", "test", "acc_norm", "id"
    ),
    "commonsenseqa": _options(
        "commonsense_qa", "commonsense_qa", "tau/commonsense_qa", None, "validation", "acc", "id"
    ),
    "arc_easy": _options(
        "arc", "arc_easy", "allenai/ai2_arc", "ARC-Easy", "test", "acc_norm", "id"
    ),
    "arc_challenge": _options(
        "arc", "arc_challenge", "allenai/ai2_arc", "ARC-Challenge", "test", "acc_norm", "id"
    ),
    "bbh": HarnessTask(
        "bbh/cot_fewshot",
        "bbh_cot_fewshot_*",
        "SaylorTwift/bbh",
        "*",
        "test",
        "exact_match",
        "exact match",
        gold=lambda row: row["target"],
        shots=3,
        stop=("\n\n", "\nQ:"),
    ),
}


def _aliases(names: list[str]) -> str:
    return json.dumps(list(dict.fromkeys(names)), ensure_ascii=False)
