"""The model card of a run: TRL's, with what it does not say put in and what is not so taken out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from peft import PeftModel
from shaped_eval.errors import UserError
from shaped_eval.hub.model_card import card_text, split_card, with_results_of
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.texts import as_code, fenced, in_markdown

from shaped_trl.hub.facts import HEADER, DataFact
from shaped_trl.hub.private import private_names, public_recipe, without
from shaped_trl.recipes import RESOLVED

CARD = "README.md"
PAPER = "[arXiv 2512.22955](https://huggingface.co/papers/2512.22955)"
_INTRODUCTION = re.compile(r"^This model is a fine-tuned version of .*\n.*\n", re.MULTILINE)
_QUICK_START = re.compile(
    r"^## Quick start\n.*?(?=^## Training procedure\n)", re.MULTILINE | re.DOTALL
)

_LOADED = re.compile(r'AutoTokenizer\.from_pretrained\("([^"]+)"\)')


@dataclass(frozen=True)
class ModelFact:
    """What a model is, for its card.

    base: the Hub id, or a local folder's own name, of the checkpoint it started from; None from
        scratch.
    """

    base: str | None
    base_on_hub: bool
    adapter: bool
    chat: bool

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> ModelFact:
        adapter = isinstance(model, PeftModel)
        inner = model.get_base_model() if adapter else model
        path = getattr(inner.config, "_name_or_path", None) or None
        local = path is not None and (Path(path).expanduser().is_dir() or path.count("/") > 1)
        base = Path(path).name if path is not None and local else path
        return cls(
            base,
            base is not None and not local,
            adapter,
            bool(getattr(tokenizer, "chat_template", None)),
        )

    def introduction(self) -> str:
        if self.base is None:
            came = "was trained from scratch"
        elif self.base_on_hub:
            came = f"was trained from [{in_markdown(self.base)}](https://huggingface.co/{quote(self.base)})"
        else:
            came = f"was trained from {as_code(self.base)}, a local model"
        what = "This model is a PEFT adapter; it" if self.adapter else "This model"
        trl = "[TRL](https://github.com/huggingface/trl)"
        return f"{what} {came}, with shaped-trl, a {trl} extension around {PAPER}.\n"

    def quick_start(self, repository: str) -> str:
        """How plain transformers loads it, and how it is asked: a text, or a chat where there is a
        template."""
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        if self.adapter:
            lines.insert(0, "from peft import PeftModel")
        lines += [f"tokenizer = AutoTokenizer.from_pretrained({_quoted(repository)})"]
        if self.adapter:
            where = (
                ""
                if self.base_on_hub
                else "  # the base model: a local folder where this was trained"
            )
            lines += [
                f"base = AutoModelForCausalLM.from_pretrained({_quoted(str(self.base))}){where}",
                f"model = PeftModel.from_pretrained(base, {_quoted(repository)})",
            ]
        else:
            lines += [f"model = AutoModelForCausalLM.from_pretrained({_quoted(repository)})"]
        if self.chat:
            lines += [
                'messages = [{"role": "user", "content": "What is 17 + 25?"}]',
                "inputs = tokenizer.apply_chat_template(",
                '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
                ")",
            ]
        else:
            lines += [
                'inputs = tokenizer("Question: What is 17 + 25?\\nAnswer:", return_tensors="pt")'
            ]
        lines += [
            "output = model.generate(**inputs, max_new_tokens=64)",
            "print(tokenizer.decode(output[0]))",
        ]
        return "\n".join(["## Quick start", "", "```python", *lines, "```", "", ""])


def _quoted(text: str) -> str:
    """As Python writes it, between double quotes."""
    return json.dumps(text, ensure_ascii=False)


class TrainingCard:
    """Mixin of a trainer: its model card.

    `data_facts` are the data sets; `shaped-trl train` and `rlvr` set them. A trainer says in
    `card_procedure` what was done and what came out.
    """

    args: Any
    model: Any
    data_facts: Sequence[DataFact] = ()

    def card_procedure(self) -> str:
        raise NotImplementedError

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        """TRL's card, completed; results of the evaluation suite that stand in the card before it
        stay."""
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        folder = Path(self.args.output_dir)
        card, name = (
            folder / CARD,
            model_name or Path(self.args.hub_model_id or folder.absolute()).name,
        )
        before = card.read_text(encoding="utf-8") if card.is_file() else ""
        super().create_model_card(name, None, tags)  # type: ignore[misc]
        data = self.data_facts or (
            [DataFact(dataset_name, on_hub="/" in dataset_name)] if dataset_name else []
        )
        model = ModelFact.of(self.accelerator.unwrap_model(self.model), self.processing_class)  # type: ignore[attr-defined]
        text = complete_card(
            card.read_text(encoding="utf-8"),
            self.hub_model_id or self.args.hub_model_id or name,  # type: ignore[attr-defined]
            model,
            data,
            self.card_procedure(),
            recipe_block(folder),
            self.args.hub_license,
        )
        # a card that is no card: nothing to keep, and no reason to end a run
        with suppress(UserError):
            text = with_results_of(before, text)
        write_atomic(card, without(text.encode(), private_names(folder)).decode())


def complete_card(
    card: str,
    repository: str,
    model: ModelFact,
    data: Sequence[DataFact],
    procedure: str,
    recipe: str = "",
    license: str | None = None,
) -> str:
    """TRL's card with our introduction, example, data, procedure and recipe, and metadata that is
    so.

    Args:
        card: what TRL wrote.
        repository: Hub id or name of the model, for the example of how to load it.
        procedure, recipe: Markdown.
        license: of the model; without one the metadata has none.
    """
    metadata, text = split_card(card)
    metadata = {
        key: value
        for key, value in metadata.items()
        if key not in ("licence", "datasets", "base_model")
    }
    metadata |= {
        "library_name": "peft" if model.adapter else "transformers",
        "pipeline_tag": "text-generation",
    }
    if model.base_on_hub:
        metadata["base_model"] = model.base
    if any(fact.on_hub for fact in data):
        metadata["datasets"] = list(dict.fromkeys(fact.name for fact in data if fact.on_hub))
    if license:
        metadata["license"] = license
    text = _INTRODUCTION.sub(lambda _: model.introduction(), text)
    text = _QUICK_START.sub(lambda _: model.quick_start(repository), text)
    table = (
        "\n".join(["## Data", "", HEADER, *(fact.row() for fact in data), "", ""]) if data else ""
    )
    said = f"{table}## Training procedure\n\n{procedure}\n\n{recipe}"
    return card_text(metadata, text.lstrip("\n").replace("## Training procedure\n", said, 1))


def recipe_block(folder: Path) -> str:
    """The run's recipe, without paths of this machine, to be unfolded; empty where there is
    none."""
    if not (folder / RESOLVED).is_file():
        return ""
    recipe = public_recipe((folder / RESOLVED).read_text(encoding="utf-8"))
    return f"<details>\n<summary>Recipe: {RESOLVED}</summary>\n\n{fenced(recipe.rstrip(), 'yaml')}\n\n</details>\n"


def numbers_table(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The last value of each number in a log, with its step, as Markdown.

    Args:
        rows: of the log, in the order of steps.
        names: beginning of a column → its words.
    """
    last = {
        name: (row["step"], value)
        for row in rows
        for name, value in row.items()
        if value is not None
    }
    lines = [
        f"| {words} | {_number(last[name][1])} | {last[name][0]:,} |"
        for name, words in names.items()
        if name in last
    ]
    return "\n".join(["| last value of | | at step |", "|---|--:|--:|", *lines]) if lines else ""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def public_card(card: str, repository: str, license: str | None) -> str:
    """A card as `repository` gets it: its example loads that, whatever it loaded; with the licence
    that is given."""
    metadata, text = split_card(card)
    if license and metadata.get("license") != license:
        card = card_text({**metadata, "license": license}, text)
    match = _QUICK_START.search(card)
    loaded = _LOADED.search(match.group()) if match else None
    if match is None or loaded is None:
        return card
    example = match.group().replace(f'"{loaded.group(1)}"', f'"{repository}"')
    return card[: match.start()] + example + card[match.end() :]
