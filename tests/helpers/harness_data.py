"""Made-up rows of lm-eval's thirteen benchmarks in the Hub's columns, and a tiny model that reads
bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROWS = 6
LETTERS = "ABCDE"
MMLU_SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "business_ethics")
BBH_TASKS = ("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa")
COLOURS = ("a red door", "green", "the blue boat", "a very yellow old house", "grey")


def write_split(mirror: Path, place: str, rows: list[dict[str, Any]]) -> None:
    path = mirror / f"{place}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _lettered(index: int, count: int) -> dict[str, Any]:
    """Options with their letters, the right one another in each row."""
    texts = [f"{COLOURS[(index + i) % 5]} {index}" for i in range(count)]
    return {
        "choices": {"text": texts, "label": list(LETTERS[:count])},
        "answerKey": LETTERS[index % count],
    }


def write_hellaswag(mirror: Path) -> None:
    rows = [
        {
            "ind": 7,
            "activity_label": "Baking",
            "ctx_a": f"A person kneads dough {i}.",
            "ctx_b": "the person",
            "ctx": f"A person kneads dough {i}. the person",
            "endings": [
                "sleeps.",
                "bakes it [title] well.",
                "sings a rather long song.",
                "flies [step] off.",
            ],
            "source_id": "made~up",
            "split": "val",
            "split_type": "indomain",
            "label": str(i % 4),
        }
        for i in range(ROWS)
    ]
    write_split(mirror, "Rowan/hellaswag/default/validation", rows)


def write_mmlu_pro_validation(mirror: Path, categories: list[str]) -> None:
    rows = [
        {
            "question_id": 90000 + 10 * place + i,
            "question": f"Made-up question {i} of {category}?",
            "options": ["one", "two", "three"],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "A: Let's think step by step. It is two. The answer is (B).",
            "category": category,
            "src": "made up",
        }
        for place, category in enumerate(categories)
        for i in range(5)
    ]
    write_split(mirror, "TIGER-Lab/MMLU-Pro/default/validation", rows)


def write_made_up_mirror(mirror: Path) -> Path:
    """All thirteen, MMLU and BBH of four parts each: enough for ``limit`` up to 4."""
    n = range(ROWS)
    for subject in MMLU_SUBJECTS:
        rows = [
            {
                "question": f" What is {i} of {subject}? ",
                "subject": subject,
                "choices": list("wxyz"),
                "answer": i % 4,
            }
            for i in n
        ]
        write_split(mirror, f"cais/mmlu/{subject}/test", rows)
        write_split(mirror, f"fxmarty/mmlu-redux-2.0-ok/{subject}/test", rows)
    categories = ["biology", "computer science"]
    rows = [
        {
            "question_id": 70 + i,
            "question": f"Question {i}?",
            "options": [f"option {j}" for j in range(3 + i)],
            "answer": LETTERS[i % 3],
            "answer_index": i % 3,
            "cot_content": "",
            "category": categories[i % 2],
            "src": "made up",
        }
        for i in n
    ]
    write_split(mirror, "TIGER-Lab/MMLU-Pro/default/test", rows)
    write_mmlu_pro_validation(mirror, categories)
    for split, first in (("train", 100), ("validation", 0)):
        rows = [
            {
                "question": f"Who is number {first + i}?",
                "question_id": "twice" if first + i < 2 else f"q_{first + i}",
                "answer": {
                    "value": f"Person {first + i}",
                    "aliases": [f"P. {first + i}", f"Person {first + i}"],
                },
            }
            for i in n
        ]
        write_split(mirror, f"mandarjoshi/trivia_qa/rc.nocontext/{split}", rows)
        rows = [
            {"question": f"who is {first + i}", "answer": [f"P. {first + i}", "Dr. No"]} for i in n
        ]
        write_split(mirror, f"google-research-datasets/nq_open/default/{split}", rows)
    write_hellaswag(mirror)
    rows = [
        {
            "context": f"Kim has {i} cats.",
            "question": "Why?",
            **_answers(i),
            "label": str(1 + i % 3),
        }
        for i in n
    ]
    write_split(mirror, "lighteval/siqa/default/validation", rows)
    rows = [
        {
            "goal": f"Open can {i}",
            "sol1": "Pull the ring.",
            "sol2": f"Sing to it {i}.",
            "label": i % 2,
        }
        for i in n
    ]
    write_split(mirror, "baber/piqa/default/validation", rows)
    rows = [
        {
            "sentence": f"Ann met Bo because _ had {i} maps.",
            "option1": "Ann",
            "option2": "Bo",
            "answer": str(1 + i % 2),
        }
        for i in n
    ]
    write_split(mirror, "allenai/winogrande/winogrande_xl/validation", rows)
    rows = [{"id": f"8-{i}", "question_stem": f"Stem {i} is", **_lettered(i, 4)} for i in n]
    write_split(mirror, "allenai/openbookqa/main/test", rows)
    rows = [
        {"id": f"c{i}", "question": f"Where is {i}?", "question_concept": "it", **_lettered(i, 5)}
        for i in n
    ]
    write_split(mirror, "tau/commonsense_qa/default/validation", rows)
    for config in ("ARC-Easy", "ARC-Challenge"):
        rows = [
            {"id": f"Mercury_{i}", "question": f"Which is {i}?", **_lettered(i, 3 + i % 3)}
            for i in n
        ]
        write_split(mirror, f"allenai/ai2_arc/{config}/test", rows)
    for task in BBH_TASKS:
        rows = [{"input": f"Is {i} even?", "target": ("Yes", "(B)")[i % 2]} for i in n]
        write_split(mirror, f"SaylorTwift/bbh/{task}/test", rows)
    return mirror


def _answers(index: int) -> dict[str, str]:
    return {f"answer{letter}": COLOURS[(index + i) % 5] for i, letter in enumerate("ABC")}


def write_byte_model(folder: Path, context_tokens: int = 8192) -> Path:
    """A random Qwen3 of 257 tokens, bytes and the end; its own generation settings are hostile."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE(vocab={"<eos>": 0} | {byte: i for i, byte in enumerate(alphabet, 1)}, merges=[])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=257,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=False,
        eos_token_id=0,
        pad_token_id=None,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.lm_head.weight.data.mul_(12)
    model.generation_config.repetition_penalty = 5.0
    model.save_pretrained(folder)
    return folder
