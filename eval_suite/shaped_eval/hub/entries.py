"""One benchmark of one run in the Hub's formats.

Which format holds what:
    .eval_results   avg@n, the accuracy of one sample, for benchmarks that have a leaderboard on the
                    Hub. The format has no field for a metric or an interval, so a pass@k in it
                    would be read as an accuracy.
    model-index     every other number: pass@k, cons@k, and all numbers of other benchmarks.
    table           all numbers, with intervals, for people.

Values are percentages, as on the leaderboards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.errors import UserError
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard
from shaped_eval.records import read_jsonl
from shaped_eval.reporting.outcomes import Outcomes, read_outcomes, read_record
from shaped_eval.reporting.results import benchmark_results, is_greedy, metric_values
from shaped_eval.untrusted.files import file_name
from shaped_eval.untrusted.texts import in_markdown, one_line

READING = (
    "Percentages with 95% intervals over problems. The sampling error is the standard error from "
    "drawing other samples for the same problems. Pass@k is the unbiased estimate from n "
    "samples, avg@n the accuracy of one sample, and cons@n the majority vote."
)

# The settings that distinguish variants of a benchmark: (name, form in file names, form in words).
_SETTINGS = (
    ("n", "n{}", "n = {}"),
    ("temperature", "t{}", "temperature {}"),
    ("top_p", "p{}", "top-p {}"),
    ("max_new_tokens", "len{}", "at most {} tokens"),
    ("shots", "shots{}", "{} worked examples"),
    ("limit", "limit{}", "only the first {} problems"),
    ("since", "since{}", "only problems from {} on"),
)
_PASS_AT = re.compile(r"pass@([1-9][0-9]{0,7})")


@dataclass(frozen=True)
class Variant:
    """A benchmark of a run, with the settings that its numbers were made with.

    Attributes:
        entry: the benchmark's entry as in results.json, computed from the run's rows.
        settings: those of run.json, with the benchmark's own n.
        graders: name and version of each grader.
        board: the leaderboard of the benchmark; None if it has none.
    """

    benchmark: str
    entry: Mapping[str, Any]
    settings: Mapping[str, Any]
    graders: tuple[str, ...]
    date: str
    record: Mapping[str, Any]
    board: Leaderboard | None = None

    @property
    def slug(self) -> str:
        """Name of the variant in file names, made of the benchmark and its settings.

        Publishing the same variant again replaces it.
        """
        parts = [form.format(self.settings[name]) for name, form, _ in _SETTINGS if self._has(name)]
        if self.settings.get("answers"):
            parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", self.settings["answers"]))
        chat = ["chat"] if self.settings.get("chat_template") else []
        return file_name("_".join([self.benchmark, *parts, *chat]))

    @property
    def label(self) -> str:
        """The settings in words."""
        parts = [form.format(self.settings[name]) for name, _, form in _SETTINGS if self._has(name)]
        if self.settings.get("decoding"):
            parts.append(
                {"likelihood": "options by likelihood"}.get(self.settings["decoding"], "greedy")
            )
        if self.entry.get("accuracy"):
            parts.append(self.entry["accuracy"])
        if self.settings.get("chat_template"):
            parts.append("chat template")
        if self.settings.get("answers"):
            parts.append(f"answers given in {self.settings['answers']}")
        return ", ".join(parts)

    @property
    def accuracy(self) -> str:
        """Key of the metric that is the accuracy of one sample."""
        return f"avg@{self.entry['n']}"

    @property
    def has_leaderboard(self) -> bool:
        """Whether the accuracy goes to a leaderboard.

        It does not for part of the problems, or for answers from elsewhere.
        """
        whole = self.board is not None and self.entry["problems"] == self.board.problems
        return whole and not self._has("answers")

    def _has(self, name: str) -> bool:
        return self.settings.get(name) is not None


def read_variants(
    folder: str | Path,
    results: Mapping[str, Any],
    boards: Mapping[str, Leaderboard] = LEADERBOARDS,
) -> list[Variant]:
    """The benchmarks of a finished run.

    All numbers are computed from the run's rows. Those in results.json may be of another time, or
    of another person.

    Args:
        results: the content of results.json, which says for which k there is a pass@k.
        boards: benchmark → its leaderboard on the Hub.

    Raises:
        UserError: the folder holds no run, or an unfinished one.
    """
    record = read_record(folder)
    variants = []
    outcomes_of = read_outcomes(folder)
    sampled = datetime.fromtimestamp((Path(folder) / "samples.jsonl").stat().st_mtime, UTC)
    date = record.get("date") or sampled.strftime("%Y-%m-%d")
    metas = {row["benchmark"]: row["meta"] for row in read_jsonl(Path(folder) / "problems.jsonl")}
    for name, outcomes in outcomes_of.items():
        ks = _reported_ks(results.get(name), outcomes)
        if ks is None:
            raise UserError(
                f"{str(folder)!r}: results.json lacks {name}: repeat `shaped-trl report {folder}`"
            )
        values = metric_values(outcomes, ks)
        entry = benchmark_results(outcomes, values, is_greedy(record))
        own = {key: metas[name][key] for key in ("shots", "decoding") if metas[name].get(key)}
        settings = {**record["settings"], "n": outcomes.n, **own}
        if (
            "decoding" in own
        ):  # the benchmark is greedy or scored by likelihood, whatever the run's temperature
            settings |= {"temperature": None, "top_p": None}
        if "date" not in metas[name]:  # the window is one of dates
            settings["since"] = None
        graders = tuple(outcomes.graders)
        variants.append(Variant(name, entry, settings, graders, date, record, boards.get(name)))
    return variants


def _reported_ks(entry: Any, outcomes: Outcomes) -> list[int] | None:
    """Each k of a pass@k in an entry of results.json; None if it has no metrics."""
    metrics = entry.get("metrics") if isinstance(entry, dict) else None
    if not isinstance(metrics, dict):
        return None
    found = {int(match[1]) for key in metrics if (match := _PASS_AT.fullmatch(key))}
    return sorted(k for k in found if k <= outcomes.n)


def eval_result(variant: Variant, source_url: str | None) -> dict[str, Any]:
    """The variant's entry in an `.eval_results` file, as in huggingface_hub's `EvalResultEntry`.

    source_url: page of the samples behind the number, if they are published.
    """
    assert variant.board is not None
    dataset_id, task_id, _ = variant.board
    fields: dict[str, Any] = {
        "dataset_id": dataset_id,
        "task_id": task_id,
        "value": _percent(variant.entry["metrics"][variant.accuracy]["value"]),
        "date": variant.date,
        "source_url": source_url,
        "source_name": "Samples and verdicts" if source_url else None,
        "notes": notes(variant),
    }
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:  # huggingface_hub before 2 lacks this class
        source = (
            {"source": {"url": source_url, "name": fields["source_name"]}} if source_url else {}
        )
        rest = {"date": fields["date"], **source, "notes": fields["notes"]}
        return {"dataset": {"id": dataset_id, "task_id": task_id}, "value": fields["value"], **rest}
    return eval_result_entries_to_yaml([EvalResultEntry(**fields)])[0]


def notes(variant: Variant) -> str:
    """The accuracy's settings, interval and provenance, in one line."""
    entry = variant.entry
    record = variant.record
    metric = entry["metrics"][variant.accuracy]
    parts = [
        f"{variant.accuracy} over {entry['problems']} problems",
        variant.label,
        f"95% interval over problems {_percent(metric['low'])} to {_percent(metric['high'])}",
        _rates(entry),
        f"grader {' '.join(variant.graders)}",
        f"shaped-trl {record.get('versions', {}).get('shaped-trl')}, commit {record.get('commit')}",
    ]
    if record.get("model_identity"):
        parts.append(f"weights {record['model_identity'][:12]}")
    return one_line("; ".join(parts))


def index_result(variant: Variant, source_url: str | None) -> dict[str, Any] | None:
    """The variant's result in a model-index, or None where no number is left for it.

    It has all numbers except those in `.eval_results`.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    # pass@1 equals avg@n, which goes to the leaderboard where there is one
    skipped = {"pass@1", variant.accuracy} if variant.has_leaderboard else {"pass@1"}
    dataset_id, config, split = _dataset(variant.benchmark)
    shares = {name: variant.entry[name] for name in ("truncated", "unparsed")}
    rates = {
        f"{name}_percent": _percent(share) for name, share in shares.items() if share is not None
    }
    about = {
        "problems": variant.entry["problems"],
        **rates,
        "graders": list(variant.graders),
        "date": variant.date,
    }
    sampled_with = {
        name: variant.settings[name]
        for name, *_ in _SETTINGS
        if variant.settings.get(name) is not None
    }
    results = [
        EvalResult(
            task_type="text-generation",
            task_name=one_line(f"{variant.benchmark} ({variant.label})"),
            dataset_type=dataset_id,
            dataset_name=one_line(variant.benchmark),
            dataset_config=config,
            dataset_split=split,
            dataset_args={**sampled_with, **about},
            metric_type=key,
            metric_name=key,
            metric_value=_percent(metric["value"]),
            metric_args={f"{end}_95": _percent(metric[end]) for end in ("low", "high")},
            source_name="Samples and verdicts" if source_url else None,
            source_url=source_url,
        )
        for key, metric in variant.entry["metrics"].items()
        if key not in skipped
    ]
    return eval_results_to_model_index("", results)[0]["results"][0] if results else None


def table(variant: Variant, source_url: str | None) -> str:
    """The variant's numbers as a Markdown table. Names from the run's files are escaped."""
    entry = variant.entry
    lines = [
        f"**{in_markdown(variant.benchmark)}**: {entry['problems']} problems, "
        f"{in_markdown(variant.label)}; {_rates(entry)}; grader "
        f"{in_markdown(', '.join(variant.graders))}; {in_markdown(variant.date)}"
        + (f"; [samples]({source_url})" if source_url else ""),
        "",
        "| metric | % | low | high | sampling error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for key, metric in entry["metrics"].items():
        ends = (metric.get(end) for end in ("value", "low", "high", "sampling_se"))
        lines.append(
            f"| {in_markdown(key)} | "
            + " | ".join("–" if end is None else f"{100 * end:.1f}" for end in ends)
            + " |"
        )
    return "\n".join(lines)


def _dataset(benchmark: str) -> tuple[str, str | None, str | None]:
    """(data set, config, split) of a benchmark, or its own name where it has no data set."""
    known: Any = BENCHMARKS.get(benchmark) or HARNESS.get(benchmark)
    if known is not None:
        return known.dataset_id, known.config, known.split
    return benchmark, None, None


def _rates(entry: Mapping[str, Any]) -> str:
    """The shares of truncated and unparsed samples; truncation is unknown for foreign answers."""
    cut = [] if entry["truncated"] is None else [f"truncated {_percent(entry['truncated'])}%"]
    return ", ".join([*cut, f"unparsed {_percent(entry['unparsed'])}%"])


def _percent(share: float) -> float:
    return round(100 * share, 2)
