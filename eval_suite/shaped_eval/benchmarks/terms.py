"""The terms of each shipped benchmark: licence, access, size, and whether texts may be published.

A licence is the identifier on the data set's card; None where the card names none. `rows` counts
the rows of the split that is evaluated, where they are known. The command
``python -m shaped_eval.benchmarks.check_hub`` compares the table with the Hub.

Texts of a benchmark that is not `publishable` stay on this machine: its prompts, golds, completions
and extracted answers are left out of reports, comparisons, and of what is sent to the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALL_SET = 50  # a set with fewer problems needs many samples of each
SAMPLES, MANY_SAMPLES = 16, 32  # of a problem by default, where no set is small and where one is
WITHHELD = (
    "The authors of {} ask that its examples are not published, so its prompts, golds and "
    "completions are left out here. They are in the run's own files."
)


@dataclass(frozen=True)
class Terms:
    """What a data set's card says.

    Args:
        licence: identifier of the licence; None if the card names none.
        rows: number of rows of the split that is evaluated; None where it is not known.
        gated: whether access needs a token of a user who has accepted the conditions.
        publishable: whether prompts, golds and completions may be published.
    """

    licence: str | None = None
    rows: int | None = None
    gated: bool = False
    publishable: bool = True


_MATH_ARENA = "cc-by-nc-sa-4.0"

TERMS: dict[str, Terms] = {
    "gsm8k": Terms("mit", 1319),
    "math500": Terms(None, 500),
    "minerva": Terms(None, 272),
    "olympiadbench": Terms("apache-2.0", 675),
    "amc23": Terms(None, 40),
    "aime24": Terms(None, 30),
    "aime25": Terms("apache-2.0", 30),
    "aime26": Terms(_MATH_ARENA, 30),
    "hmmt_feb25": Terms(_MATH_ARENA, 30),
    "hmmt_feb26": Terms(_MATH_ARENA, 33),
    "brumo25": Terms(_MATH_ARENA, 30),
    "cmimc25": Terms(_MATH_ARENA, 40),
    "beyondaime": Terms("cc0-1.0", 100),
    "gpqa_diamond": Terms("cc-by-4.0", 198, gated=True, publishable=False),
    "humaneval": Terms("mit", 164),
    "humanevalplus": Terms("apache-2.0", 164),
    "mbpp": Terms("cc-by-4.0", 500),
    "mbppplus": Terms("apache-2.0", 378),
    "ifeval": Terms("apache-2.0", 541),
    "livecodebench": Terms("cc", 1055),
    "livecodebench_v6": Terms("cc", 175),
    "mmlu": Terms("mit", 14042),
    "mmlu_redux": Terms(),
    "mmlu_pro": Terms("mit", 12032),
    "triviaqa": Terms(None, 17944),
    "nq": Terms("cc-by-sa-3.0", 3610),
    "hellaswag": Terms(None, 10042),
    "siqa": Terms(None, 1954),
    "piqa": Terms(None, 1838),
    "winogrande": Terms(None, 1267),
    "openbookqa": Terms(None, 500),
    "commonsenseqa": Terms("mit", 1221),
    "arc_easy": Terms("cc-by-sa-4.0", 2376),
    "arc_challenge": Terms("cc-by-sa-4.0", 1172),
    "bbh": Terms(None, 6511),
}


def terms_of(benchmark: str) -> Terms:
    """The terms of a benchmark by its name; no restriction is known of one that is not shipped."""
    return TERMS.get(benchmark, Terms())


def is_publishable(benchmark: str) -> bool:
    """Whether prompts, golds and completions of a benchmark may be published."""
    return terms_of(benchmark).publishable


def samples_by_default(benchmarks: Sequence[str]) -> int:
    """Number of samples of each problem in a run of these benchmarks whose user gives none."""
    sizes = [terms_of(name).rows for name in benchmarks]
    is_small = any(size is not None and size < SMALL_SET for size in sizes)
    return MANY_SAMPLES if is_small else SAMPLES
