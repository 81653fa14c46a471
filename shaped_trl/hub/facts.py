"""The facts about a run's data for its model card: names, shares, splits and stated licences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shaped_eval.benchmarks.own import read_own
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.errors import UserError
from shaped_eval.hub.model_card import split_card
from shaped_eval.sources import MIRROR_VARIABLE
from shaped_eval.untrusted.texts import as_code, in_markdown

from shaped_trl.data.corpora import LOADERS, CorpusArguments, SourceArguments
from shaped_trl.data.mixtures import mixture_entries
from shaped_trl.data.prompt_options import REASONING_GYM, PromptArguments

HUB_SECONDS = 10.0


@dataclass(frozen=True)
class DataFact:
    """One data set of a run.

    name: its Hub id, or the name of a local file.
    share: its share of the tokens, 0–1; None without a mixture.
    """

    name: str
    on_hub: bool = False
    config: str | None = None
    split: str | None = None
    heldout: str | None = None
    share: float | None = None
    license: str | None = None

    @property
    def public(self) -> bool:
        """Whether its rows are known to be public: a benchmark's data set, or a generated one.

        Another data set on the Hub may be private.
        """
        known = {getattr(benchmark, "dataset_id", None) for benchmark in BENCHMARKS.values()}
        return self.name in known or self.name.startswith(REASONING_GYM)

    def row(self) -> str:
        """The row for this data set in a Markdown table under `HEADER`."""
        url = f"https://huggingface.co/datasets/{quote(self.name)}"
        name = f"[{in_markdown(self.name)}]({url})" if self.on_hub else as_code(self.name)
        share = "" if self.share is None else f"{self.share:.2%}"
        cells = (
            self.config or "",
            self.split or "",
            share,
            self.heldout or "",
            self.license or "not stated",
        )
        return f"| {name} | " + " | ".join(map(in_markdown, cells)) + " |"


HEADER = (
    "| data | config | split | share of the tokens | held-out split | licence |\n"
    "|---|---|---|--:|---|---|"
)


def corpus_facts(corpus: CorpusArguments, ask_hub: bool) -> list[DataFact]:
    """The data sets of `shaped-trl train`.

    With `ask_hub`, licences that the options do not give are looked up on the Hub.
    """
    entries = mixture_entries(corpus)
    return [
        _fact(options, ask_hub, share=weight if corpus.mixture else None)
        for options, weight in entries
    ]


def prompt_facts(prompts: PromptArguments, ask_hub: bool) -> list[DataFact]:
    """The data set of `shaped-trl rlvr`; the benchmark's own if only a benchmark is named."""
    if prompts.is_own_data:
        own = read_own(prompts.dataset_name)
        return [_fact(prompts, ask_hub, name=own.dataset_id, config=own.config)]
    if prompts.dataset_name:
        return [_fact(prompts, ask_hub)]
    benchmark: Any = BENCHMARKS.get(prompts.benchmark_format or "")
    name = getattr(benchmark, "dataset_id", None) or prompts.benchmark_format
    return (
        [_fact(prompts, ask_hub, name=name, config=getattr(benchmark, "config", None))]
        if name
        else []
    )


def _fact(options: SourceArguments, ask_hub: bool, **given: Any) -> DataFact:
    name = given.pop("name", options.dataset_name)
    local = Path(name).suffix in LOADERS
    on_hub = not local and name.count("/") == 1 and not name.startswith(REASONING_GYM)
    heldout, first = (getattr(options, key, None) for key in ("dataset_test_split", "num_heldout"))
    if heldout is None and first:
        heldout = f"{first:,} rows"
    return DataFact(
        name=Path(name).name if local else name,
        on_hub=on_hub,
        split=None if local else options.dataset_train_split,
        heldout=Path(heldout).name if heldout and Path(heldout).suffix in LOADERS else heldout,
        license=options.dataset_license
        or (_stated_license(name, options.hub_mirror, ask_hub) if on_hub else None),
        **{"config": options.dataset_config, **given},
    )


def _stated_license(dataset_id: str, hub_mirror: str | None, ask_hub: bool) -> str | None:
    """The licence stated in the card of a Hub data set, or None.

    The card is the README.md in the mirror if there is a mirror, or that on the Hub.
    """
    root = hub_mirror or os.environ.get(MIRROR_VARIABLE)
    if root:
        card = Path(root) / dataset_id / "README.md"
        try:
            metadata = split_card(card.read_text(encoding="utf-8"))[0] if card.is_file() else {}
        except UserError:  # a damaged card of another author must not stop the run
            metadata = {}
    elif ask_hub:
        metadata = _card_on_hub(dataset_id)
    else:
        metadata = {}
    stated = metadata.get("license")
    return ", ".join(map(str, stated)) if isinstance(stated, list) else stated


def _card_on_hub(dataset_id: str) -> dict[str, Any]:
    from huggingface_hub import HfApi
    from shaped_eval.hub.errors import hub_errors

    try:
        data = (
            HfApi(library_name="shaped-trl").dataset_info(dataset_id, timeout=HUB_SECONDS).card_data
        )
    except hub_errors():  # a licence that cannot be read counts as not stated
        return {}
    return data.to_dict() if data is not None else {}
