"""Samples to read: some of each kind of outcome, chosen by a hash of their ids, not by a person.

The files are read row by row. Only the chosen completions are kept, and these are shortened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.terms import WITHHELD, is_publishable
from shaped_eval.records import read_jsonl
from shaped_eval.reporting.document import Block, Code, Details, Heading, Text
from shaped_eval.untrusted.texts import shorten

# kind -> its label; a sample that qualifies for several kinds is shown as the first one
KINDS = {
    "pass": "right",
    "fail": "wrong",
    "timeout": "timeout",
    "error": "error",
    "unparsed": "unparsed",
    "length": "truncated",
}
HEAD_CHARACTERS = 2400
TAIL_CHARACTERS = 1600
PROMPT_CHARACTERS = 1600
_GOLD_CHARACTERS = 400
_WHOLE_LINES = re.compile(r"(?s:.*)(?:\n|: )|")
_SHARED_CHARACTERS = 200  # a shared beginning of prompts up to this length is shown

Key = tuple[str, int]


@dataclass(frozen=True)
class Example:
    """One sample with its problem. Texts are shortened."""

    kind: str
    key: Key
    completion: str
    truncated: bool
    tokens: int
    prompt: str = ""
    status: str = ""
    answer: str | None = None
    gold: str = ""


def choose_examples(folder: str | Path, per_kind: int) -> dict[str, list[Example]]:
    """Benchmark → examples, up to `per_kind` of each kind, in the order of `KINDS`.

    Rows without a problem are skipped: incomplete runs are refused before this is called.
    """
    folder = Path(folder)
    benchmark_of = {
        row["problem_id"]: row["benchmark"] for row in read_jsonl(folder / "problems.jsonl")
    }
    lowest = _Lowest(per_kind)
    for row in read_jsonl(folder / "verdicts.jsonl"):
        if row["problem_id"] in benchmark_of:
            lowest.offer((benchmark_of[row["problem_id"]], row["status"]), _key(row))
    chosen = {key: kind for (_, kind), key, _ in lowest.kept()}
    texts: dict[Key, dict[str, Any]] = {}
    cut = _Lowest(per_kind)
    for row in read_jsonl(folder / "samples.jsonl"):
        key = _key(row)
        if key in chosen:
            texts[key] = _short_sample(row)
        elif row["finish_reason"] == "length" and key[0] in benchmark_of:
            group = (benchmark_of[key[0]], "length")
            if cut.would_keep(group, key):
                cut.offer(group, key, _short_sample(row))
    for (_, kind), key, text in cut.kept():
        chosen[key], texts[key] = kind, text
    examples = {
        key: Example(kind, key, **texts[key]) for key, kind in chosen.items() if key in texts
    }
    return _complete(folder, benchmark_of, examples)


def example_blocks(folder: str | Path, per_kind: int, label: str = "") -> list[Block]:
    """A heading for each benchmark, preceded by `label`, and its examples, folded.

    A benchmark whose texts may not be published has a sentence in place of them.
    """
    blocks: list[Block] = []
    for benchmark, examples in choose_examples(folder, per_kind).items():
        blocks.append(Heading(f"{label}{benchmark}", 3))
        if is_publishable(benchmark):
            blocks += [_folded(example) for example in examples]
        else:
            blocks.append(Text(WITHHELD.format(benchmark)))
    return blocks


def prompt_text(prompt: Any) -> str:
    """A prompt as text; a chat is written message by message."""
    if isinstance(prompt, list):
        return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in prompt)
    return str(prompt)


def common_start(prompts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Benchmark → the common beginning of its prompts: usually its worked examples.

    The beginning ends at the end of a line or at a colon. It is empty for a benchmark of one
    problem.

    Args:
        prompts: (benchmark, prompt) of each problem.
    """
    starts: dict[str, str] = {}
    alone: set[str] = set()
    for name, prompt in prompts:
        (alone.discard if name in starts else alone.add)(name)
        start = starts.setdefault(name, prompt)
        if not prompt.startswith(start):
            pairs = enumerate(zip(start, prompt, strict=False))
            starts[name] = next((start[:index] for index, (a, b) in pairs if a != b), prompt)
    return {
        name: "" if name in alone else _WHOLE_LINES.match(start)[0]  # type: ignore[index]
        for name, start in starts.items()
    }


def short_prompt(prompt: str, shared: int, most: int = PROMPT_CHARACTERS) -> str:
    """The last `most` characters of a prompt, without the first `shared` ones if these are many."""
    own = shorten(prompt[shared:], 0, most).lstrip("\n")
    if shared <= _SHARED_CHARACTERS:
        return shorten(prompt, 0, most).lstrip("\n")
    return (
        f"[… the first {shared:,} characters are the same in every prompt of this benchmark "
        f"…]\n{own}"
    )


class _Lowest:
    """Keeps, for each group, the `count` items whose keys have the lowest hashes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._groups: dict[tuple[str, str], list[tuple[int, Key, Any]]] = {}

    def would_keep(self, group: tuple[str, str], key: Key) -> bool:
        kept = self._groups.get(group, [])
        return len(kept) < self._count or (_rank(key), key) < kept[-1][:2]

    def offer(self, group: tuple[str, str], key: Key, item: Any = None) -> None:
        if self.would_keep(group, key):
            kept = self._groups.setdefault(group, [])
            kept.append((_rank(key), key, item))
            kept.sort(key=lambda each: each[:2])
            del kept[self._count :]

    def kept(self) -> Iterable[tuple[tuple[str, str], Key, Any]]:
        return ((group, key, item) for group, kept in self._groups.items() for _, key, item in kept)


def _rank(key: Key) -> int:
    """A fair draw. The CRC of similar ids would not be one: it clusters."""
    digest = hashlib.sha256(f"{key[0]}\0{key[1]}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _key(row: Mapping[str, Any]) -> Key:
    return row["problem_id"], row["sample_index"]


def _short_sample(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "completion": shorten(row["completion"], HEAD_CHARACTERS, TAIL_CHARACTERS),
        "truncated": row["finish_reason"] == "length",
        "tokens": row["tokens"],
    }


def _complete(
    folder: Path, benchmark_of: Mapping[str, str], examples: dict[Key, Example]
) -> dict[str, list[Example]]:
    """Examples by benchmark, completed by answers from the verdicts and texts from the problems."""
    for row in read_jsonl(folder / "verdicts.jsonl"):
        key = _key(row)
        if key in examples:
            answer = (
                None if row["answer"] is None else shorten(str(row["answer"]), _GOLD_CHARACTERS, 0)
            )
            examples[key] = replace(examples[key], status=row["status"], answer=answer)
    rows = read_jsonl(folder / "problems.jsonl")
    starts = common_start((row["benchmark"], prompt_text(row["prompt"])) for row in rows)
    needed = {problem_id for problem_id, _ in examples}
    problems = {
        row["problem_id"]: row
        for row in read_jsonl(folder / "problems.jsonl")
        if row["problem_id"] in needed
    }
    order = list(KINDS)
    by_benchmark: dict[str, list[Example]] = {name: [] for name in benchmark_of.values()}
    for key, example in sorted(
        examples.items(), key=lambda item: (order.index(item[1].kind), _rank(item[0]), item[0])
    ):
        name = benchmark_of[key[0]]
        row = problems[key[0]]
        prompt = short_prompt(prompt_text(row["prompt"]), len(starts[name]))
        gold = shorten(str(row["gold"]), _GOLD_CHARACTERS, 0)
        by_benchmark[name].append(replace(example, prompt=prompt, gold=gold))
    return {name: found for name, found in by_benchmark.items() if found}


def _folded(example: Example) -> Details:
    facts = [KINDS[example.kind], example.key[0], f"sample {example.key[1]}"]
    if example.kind == "length":
        facts.insert(1, KINDS[example.status])
    elif example.truncated:
        facts.insert(1, "truncated")
    if example.tokens:
        facts.append(f"{example.tokens:,} tokens")
    answer = "none" if example.answer is None else example.answer
    return Details(
        " · ".join(facts),
        [
            Code("Prompt", example.prompt) if example.prompt else Text("Prompt: not recorded."),
            Code("Completion", example.completion)
            if example.completion.strip()
            else Text("Completion: empty."),
            Code("Answer found", answer),
            Code("Gold", example.gold),
        ],
    )
