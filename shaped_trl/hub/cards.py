"""The model card of a run: TRL's card, completed and corrected."""

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
from shaped_trl.hub.private import private_names, public_recipe, without_paths
from shaped_trl.recipes import RESOLVED

CARD = "README.md"
SUM = "What is 17 + 25?"
LONGEST_EXAMPLE = 1_000  # characters
Prompt = str | list[dict[str, str]]
PAPER = "[arXiv 2512.22955](https://huggingface.co/papers/2512.22955)"
_INTRODUCTION = re.compile(r"^This model is a fine-tuned version of .*\n.*\n", re.MULTILINE)
_QUICK_START = re.compile(
    r"^## Quick start\n.*?(?=^## Training procedure\n)", re.MULTILINE | re.DOTALL
)

_LOADED = re.compile(r'AutoTokenizer\.from_pretrained\("([^"]+)"\)')


@dataclass(frozen=True)
class ModelFact:
    """The facts about a model for its card.

    base: the checkpoint that training started from: its Hub id, or the name of a local folder;
        None if it was trained from scratch.
    base_on_hub: whether `base` is a Hub id.
    adapter: whether the model is a PEFT adapter.
    chat: whether the tokenizer has a chat template.
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
            origin = "was trained from scratch"
        elif self.base_on_hub:
            origin = (
                f"was trained from [{in_markdown(self.base)}]"
                f"(https://huggingface.co/{quote(self.base)})"
            )
        else:
            origin = f"was trained from {as_code(self.base)}, a local model"
        what = "This model is a PEFT adapter; it" if self.adapter else "This model"
        trl = "[TRL](https://github.com/huggingface/trl)"
        return f"{what} {origin}, with shaped-trl, a {trl} extension around {PAPER}.\n"

    def quick_start(self, repository: str, prompt: Prompt | None = None) -> str:
        """An example with plain transformers.

        Args:
            repository: the Hub id or name of the model.
            prompt: a text or a chat to ask; by default a sum, as a chat if there is a chat
                template.
        """
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
        if prompt is None:
            prompt = (
                [{"role": "user", "content": SUM}] if self.chat else f"Question: {SUM}\nAnswer:"
            )
        if isinstance(prompt, list):
            lines += [
                f"messages = {json.dumps(prompt)}",
                "inputs = tokenizer.apply_chat_template(",
                '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
                ")",
            ]
        else:
            lines += [f'inputs = tokenizer({json.dumps(prompt)}, return_tensors="pt")']
        lines += [
            "output = model.generate(**inputs, max_new_tokens=64)",
            "print(tokenizer.decode(output[0]))",
        ]
        return "\n".join(["## Quick start", "", "```python", *lines, "```", "", ""])


def example_prompt(prompt: Any, data: Sequence[DataFact]) -> Prompt | None:
    """The prompt of a row for the quick start; None if it is long, or if it is not public.

    A card is pushed to the Hub, so no row of private data may be in it.
    """
    if not data or not all(fact.public for fact in data):
        return None
    if isinstance(prompt, list):
        prompt = [{"role": each["role"], "content": each["content"]} for each in prompt]
    return prompt if len(json.dumps(prompt)) <= LONGEST_EXAMPLE else None


def _quoted(text: str) -> str:
    """The text as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


class TrainingCard:
    """Mixin for a trainer that writes its model card.

    `data_facts` are its data sets, which `shaped-trl train` and `rlvr` set. `example_prompt` is a
    question of the task for the quick start. A trainer describes its training and the results in
    `card_procedure`.
    """

    args: Any
    model: Any
    data_facts: Sequence[DataFact] = ()
    example_prompt: Prompt | None = None

    def card_procedure(self) -> str:
        raise NotImplementedError

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        """Complete TRL's card, and keep the evaluation suite's results of an older card."""
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        folder = Path(self.args.output_dir)
        card = folder / CARD
        name = model_name or Path(self.args.hub_model_id or folder.absolute()).name
        before = card.read_text(encoding="utf-8") if card.is_file() else ""
        super().create_model_card(name, None, tags)  # type: ignore[misc]
        data = self.data_facts or (
            [DataFact(dataset_name, on_hub="/" in dataset_name)] if dataset_name else []
        )
        trainer: Any = self
        model = ModelFact.of(trainer.accelerator.unwrap_model(self.model), trainer.processing_class)
        text = complete_card(
            card.read_text(encoding="utf-8"),
            trainer.hub_model_id or self.args.hub_model_id or name,
            model,
            data,
            self.card_procedure(),
            recipe_block(folder),
            self.args.hub_license,
            self.example_prompt,
        )
        # An older README.md may not be a model card; then there are no results to keep.
        with suppress(UserError):
            text = with_results_of(before, text)
        write_atomic(card, without_paths(text.encode(), private_names(folder)).decode())


def complete_card(
    card: str,
    repository: str,
    model: ModelFact,
    data: Sequence[DataFact],
    procedure: str,
    recipe: str = "",
    license: str | None = None,
    prompt: Prompt | None = None,
) -> str:
    """TRL's card with our introduction, example, data, procedure, recipe and metadata.

    Args:
        card: the card that TRL wrote.
        repository: the Hub id or name of the model, for the example of how to load it.
        model: the facts about the model.
        data: the facts about the data sets.
        procedure: the section on training, in Markdown.
        recipe: the block with the recipe, in Markdown.
        license: the licence of the model; without one the metadata states none.
        prompt: what the example asks, as in `ModelFact.quick_start`.
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
    text = _QUICK_START.sub(lambda _: model.quick_start(repository, prompt), text)
    table = (
        "\n".join(["## Data", "", HEADER, *(fact.row() for fact in data), "", ""]) if data else ""
    )
    training = f"{table}## Training procedure\n\n{procedure}\n\n{recipe}"
    return card_text(metadata, text.lstrip("\n").replace("## Training procedure\n", training, 1))


def recipe_block(folder: Path) -> str:
    """The run's recipe without this machine's paths, folded; empty if there is no recipe."""
    if not (folder / RESOLVED).is_file():
        return ""
    recipe = public_recipe((folder / RESOLVED).read_text(encoding="utf-8"))
    block = fenced(recipe.rstrip(), "yaml")
    return f"<details>\n<summary>Recipe: {RESOLVED}</summary>\n\n{block}\n\n</details>\n"


def numbers_table(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The last value of each number in a log, with its step, as Markdown.

    Args:
        rows: the rows of the log, in the order of steps.
        names: column -> how the table calls it. Parts of a name may come from the data, so the
            whole name is escaped.
    """
    last = {
        name: (row["step"], value)
        for row in rows
        for name, value in row.items()
        if value is not None
    }
    lines = [
        f"| {in_markdown(words)} | {_number(last[name][1])} | {last[name][0]:,} |"
        for name, words in names.items()
        if name in last
    ]
    return "\n".join(["| last value of | | at step |", "|---|--:|--:|", *lines]) if lines else ""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def public_card(card: str, repository: str, license: str | None) -> str:
    """A card for `repository`: its example loads this repository, and it has the given licence."""
    metadata, text = split_card(card)
    if license and metadata.get("license") != license:
        card = card_text({**metadata, "license": license}, text)
    match = _QUICK_START.search(card)
    loaded = _LOADED.search(match.group()) if match else None
    if match is None or loaded is None:
        return card
    example = match.group().replace(f'"{loaded.group(1)}"', f'"{repository}"')
    return card[: match.start()] + example + card[match.end() :]
