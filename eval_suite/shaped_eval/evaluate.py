"""Sample, grade and report in one call from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shaped_eval.config import SampleConfig
from shaped_eval.grade import grade_run
from shaped_eval.grading import GraderPool
from shaped_eval.report import parse_pass_at, report_run
from shaped_eval.sample import sample
from shaped_eval.untrusted.locks import locked_folder


def evaluate_model(
    model: str | Path,
    benchmarks: str | Sequence[str],
    out: str | Path = "",
    *,
    pass_at: Sequence[int] | None = None,
    num_workers: int | None = None,
    keep_reasoning: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model on benchmarks, as `shaped-trl eval` does, and return the results.

    An unfinished run in `out` is continued. The folder also gets results.json, report.md and
    report.html.

    Example:

        results = evaluate_model("Qwen/Qwen3-0.6B-Base", "gsm8k", n=16, limit=100)
        results["gsm8k"]["metrics"]["pass@8"]["value"]

    Args:
        model: id of a model on the Hub, or the folder of a saved one.
        benchmarks: names of benchmarks, as a list or separated by commas.
        out: folder of the run. By default outputs/eval/ and the model's name.
        pass_at: values of k for pass@k. By default the powers of two up to n, and n.
        num_workers: number of grading processes. By default one for each core.
        keep_reasoning: grade the text in ``<think>`` tags, too.
        options: other fields of `SampleConfig`, such as ``n``, ``temperature`` or ``limit``.

    Returns:
        ``{benchmark: {"problems", "n", "truncated", "unparsed", "metrics": {"pass@8": {"value",
        "low", "high", "sampling_se"}, ...}}}``; values and rates are between 0 and 1.

    Raises:
        UserError: an option has a value that is not allowed, `out` holds another run, or model or
            data cannot be found.
        TypeError: there is no option of that name.
    """
    names = benchmarks if isinstance(benchmarks, str) else ",".join(benchmarks)
    config = SampleConfig(
        model=str(model), benchmarks=names, out=str(out) if out else "", **options
    )
    ks = None if pass_at is None else parse_pass_at(",".join(map(str, pass_at)), config.n)
    GraderPool(num_workers).close()  # refuses a number of workers now, not after sampling
    with locked_folder(config.out):
        folder = sample(config)
        grade_run(folder, num_workers=num_workers, keep_reasoning=keep_reasoning)
        return report_run(folder, ks)
