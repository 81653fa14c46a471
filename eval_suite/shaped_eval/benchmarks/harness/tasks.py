"""The table of benchmarks that lm-eval defines: which of its tasks, where the rows are, shots, and
who grades.

Shots are the paper's (arXiv 2512.22955): MMLU 4 and MMLU-Pro 5 with chains of thought, TriviaQA and
NQ 5, BBH 3 with chains of thought; the others are scored by likelihood without any. Worked examples
of MMLU and BBH are the published ones, in lm-eval's definitions; those of MMLU-Pro are its
validation split's, of TriviaQA and NQ the first rows of the train split, so that every problem has
the same ones (lm-eval draws others for each document).

Departures from lm-eval 0.4.13, each for a fault:

* TriviaQA's prompt puts a question mark behind each question, and most have one: here the question
  stays as it is;
* TriviaQA and NQ end a completion at the first period or comma, which 9% of NQ's questions cannot
  be answered without (``J.R.R. Tolkien``, ``March 8, 2018``): here at the end of the line;
* BBH ends one at any ``Q``, here at a line that begins with ``Q:``, or at an empty line, as there;
* MMLU's has no end but the token limit of 256, here ``Q:`` at the beginning of a line; MMLU-Pro's
  ``Question:`` only there;
* MMLU's description runs into the first question, here an empty line is between them; its examples
  write ``\\frac`` as a form feed and ``rac``;
* the run's ``--max_new_tokens`` is the token limit of all.
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
    """One benchmark. A ``*`` in `task` and `config` is the name of its parts: MMLU's subjects,
    BBH's tasks.

    folder, task: of lm-eval's definition. dataset_id, config, split: of the rows; `part_column`
        where one split holds
    all parts. grader: of the generated text or of the chosen option. metric: ``acc`` takes the
    option of the highest log-likelihood, ``acc_norm`` of the highest per character. gold: of a
    generated text; None for likelihood.
    shots, shots_split: worked examples, and the split that they begin; None where lm-eval's
        definition holds them.
    options, prompt_column: of a problem whose options are within the contexts. changes: to
        lm-eval's definition.
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

    @property
    def is_likelihood(self) -> bool:
        return self.gold is None


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
