"""Prompts of RLVR: what a row becomes, what is dropped, what is held out, and mistakes in one
line."""

import json
import logging
from pathlib import Path

import pytest
from places import SHARED
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.loading import questions as benchmark_questions
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import WORDS, tiny_tokenizer

from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.data.prompts import Prompts, rl_prompts
from shaped_trl.recipes import Parser

HUB = SHARED / "hub"
real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the mirror of real data, ../shared, is absent"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<unk> ' + m['role'] + ' ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<unk> w0 w0 ' }}{% if extra %}{{ 'w1 ' }}{% endif %}{% endif %}"
)
DAPO = "Solve it. The last line is Answer: $Answer.\n\n{}"


def chat_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(name: str = "", seed: int = 0, tokenizer=None, **options) -> Prompts:
    return rl_prompts(PromptArguments(dataset_name=name, **options), seed, tokenizer)


def dapo_rows(questions: list[str], repeats: int) -> list[dict]:
    return [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": DAPO.format(question), "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(index), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"{index}-{repeat}"},
        }
        for repeat in range(repeats)
        for index, question in enumerate(questions)
    ]


def used(found: Prompts) -> list[str]:
    return [row["prompt"] for row in found.train]


def test_repeated_prompts_are_used_once_and_counted(tmp_path):
    file = write(
        tmp_path / "dapo.jsonl", dapo_rows(["What is w1?", "What is w2?", "And w3?"], repeats=100)
    )
    found = prompts(file, gold_template="{reward_model[ground_truth]}")
    assert found.train.to_list() == [
        {"prompt": DAPO.format(question), "gold": str(i)}
        for i, question in enumerate(["What is w1?", "What is w2?", "And w3?"])
    ]
    expected = {
        "read": 300,
        "duplicates": 297,
        "contaminated": 0,
        "too_long": 0,
        "also_heldout": 0,
        "heldout": 0,
    }
    assert found.counts == expected | {"used": 3}
    assert (found.grader, found.heldout, found.overlap, found.dropped) == ("math", None, None, [])


def test_messages_stay_messages_with_chat_and_become_text_without(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "gold": 5,
        }
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    assert prompts(file).train.to_list() == [{"prompt": "a\n\nb", "gold": "5"}]
    assert prompts(file, chat=True).train[0]["prompt"] == rows[0]["prompt"]
    system = {"role": "system", "content": "be brief"}
    assert prompts(file, chat=True, system_prompt="be brief").train[0]["prompt"] == [
        system,
        *rows[0]["prompt"],
    ]
    rows[0]["prompt"].insert(0, system)
    with pytest.raises(UserError, match="row 0 has a system message already"):
        prompts(write(tmp_path / "system.jsonl", rows), chat=True, system_prompt="be long")


def test_texts_become_user_messages_with_chat(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"question": "w1 w2", "gold": "5"}])
    found = prompts(file, prompt_template="Q: {question}", chat=True)
    assert found.train.to_list() == [
        {"prompt": [{"role": "user", "content": "Q: w1 w2"}], "gold": "5"}
    ]


@pytest.mark.slow
@real_data
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["gsm8k", "math500", "mbpp", "mbppplus", "humaneval"])
def test_a_benchmarks_format_is_what_evaluation_asks(name, chat):
    """The same prompts (without worked examples), golds and grader."""
    found = prompts(benchmark_format=name, hub_mirror=str(HUB), chat=chat)
    asked = load_problems([name], hub_mirror=HUB, chat=chat, shots=None if chat else 0)
    # the first of equal ones
    asked = list({problem.prompt: problem for problem in reversed(asked)}.values())[::-1]
    given = [{"role": "user", "content": problem.prompt} for problem in asked]
    expected = [[message] for message in given] if chat else [problem.prompt for problem in asked]
    assert used(found) == expected
    assert found.train["gold"][:] == [problem.gold for problem in asked]
    assert {problem.grader for problem in asked} == {found.grader}


@real_data
def test_training_on_a_benchmark_is_said_loudly(caplog):
    with caplog.at_level(logging.WARNING):
        prompts(benchmark_format="mbppplus", hub_mirror=str(HUB), num_prompts=5)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "SMOKE TEST ONLY" in record.message
    assert "mbppplus" in record.message
    caplog.clear()
    math500 = {
        "dataset_train_split": "test",
        "prompt_template": "{problem}",
        "gold_template": "{answer}",
    }
    prompts("HuggingFaceH4/MATH-500", hub_mirror=str(HUB), **math500)
    assert "SMOKE TEST ONLY" in caplog.text
    caplog.clear()
    prompts("openai/gsm8k", dataset_config="main", benchmark_format="gsm8k", hub_mirror=str(HUB))
    assert not caplog.text


@real_data
def test_a_planted_benchmark_problem_is_dropped_and_reported(tmp_path):
    """In other writing, within the data's own instruction, in a chat; short questions cannot be
    found."""
    planted = next(
        question
        for question in benchmark_questions("math500", HUB)
        if len(question.text.split()) > 30
    )
    texts = ["What is w1?", planted.text.upper().replace(" ", "  "), "What is w2?"]
    file = write(tmp_path / "dapo.jsonl", dapo_rows(texts, repeats=3))
    options = {"gold_template": "{reward_model[ground_truth]}", "hub_mirror": str(HUB)}
    for chat in (False, True):
        found = prompts(file, decontaminate="[math500, aime24]", chat=chat, **options)
        assert found.train["gold"][:] == ["0", "2"]
        assert (found.counts["read"], found.counts["duplicates"], found.counts["contaminated"]) == (
            9,
            6,
            1,
        )
        (line,) = found.dropped
        assert line["source"] == file
        assert line["problems"] == [f"math500/{planted.own_id}"]
        assert found.overlap.problems["math500"] == 500
    assert len(prompts(file, **options).train) == 3


@real_data
def test_train_problems_of_gsm8k_like_its_test_problems(tmp_path):
    options = {"dataset_config": "main", "benchmark_format": "gsm8k", "hub_mirror": str(HUB)}
    found = prompts("openai/gsm8k", decontaminate=["gsm8k"], dataset_test_split="test", **options)
    assert found.counts["read"] == 7473
    assert 0 < found.counts["contaminated"] == len(found.dropped) < 50
    # a held-out split is not decontaminated
    assert found.counts["heldout"] == len(found.heldout) == 1319
    assert not set(used(found)) & set(found.heldout["prompt"])


def test_length_counts_the_chat_templates_tokens(tmp_path):
    rows = [{"prompt": " ".join(WORDS[:count]), "gold": "1"} for count in range(1, 11)]
    file = write(tmp_path / "rows.jsonl", rows)
    found = prompts(file, tokenizer=tiny_tokenizer(), max_prompt_length=6)
    assert (len(found.train), found.counts["too_long"]) == (6, 4)
    # a message adds <unk>, its role and <eos>, the template three words before the answer
    found = prompts(file, tokenizer=chat_tokenizer(), max_prompt_length=9, chat=True)
    assert (len(found.train), found.counts["too_long"]) == (3, 7)
    found = prompts(
        file, tokenizer=chat_tokenizer(), max_prompt_length=11, chat=True, system_prompt="w1"
    )
    assert len(found.train) == 1
    arguments = PromptArguments(dataset_name=file, max_prompt_length=9, chat=True)
    assert len(rl_prompts(arguments, 0, chat_tokenizer(), {"extra": True}).train) == 2
    with pytest.raises(
        UserError, match="none of the 10 prompts is left; 10 are longer than max_prompt_length=1"
    ):
        prompts(file, tokenizer=chat_tokenizer(), max_prompt_length=1, chat=True)
    with pytest.raises(UserError, match="max_prompt_length=9 needs a tokenizer"):
        prompts(file, max_prompt_length=9)
    with pytest.raises(UserError, match="has no chat template"):
        prompts(file, tokenizer=tiny_tokenizer(), chat=True)


def test_held_out_prompts_are_drawn_with_the_seed(tmp_path):
    rows = [{"prompt": f"w{number % 50}", "gold": "1"} for number in range(100)]
    file = write(tmp_path / "rows.jsonl", rows)
    found = prompts(file, num_heldout=10)
    held = set(found.heldout["prompt"])
    assert (len(held), found.counts["duplicates"], found.counts["used"]) == (10, 50, 40)
    assert not held & set(used(found))
    assert set(prompts(file, num_heldout=10).heldout["prompt"]) == held
    assert set(prompts(file, num_heldout=10, seed=1).heldout["prompt"]) != held
    assert set(prompts(file, num_heldout=10, num_prompts=5).heldout["prompt"]) == held
    assert len(prompts(file, num_heldout=10, num_prompts=5).train) == 5
    with pytest.raises(UserError, match="num_heldout=50 leaves none of the 50 prompts"):
        prompts(file, num_heldout=50)


def test_a_held_out_file_takes_its_prompts_out_of_training(tmp_path):
    file = write(
        tmp_path / "train.jsonl", [{"prompt": f"w{number}", "gold": "1"} for number in range(9)]
    )
    other = write(
        tmp_path / "test.jsonl", [{"prompt": f"w{number}", "gold": "2"} for number in (3, 5, 5, 99)]
    )
    found = prompts(file, dataset_test_split=other, num_prompts=4)
    assert used(found) == ["w0", "w1", "w2", "w4"]
    assert found.heldout["prompt"][:] == ["w3", "w5", "w99"]
    assert (found.counts["also_heldout"], found.counts["heldout"], found.counts["used"]) == (
        2,
        3,
        4,
    )
    with pytest.raises(UserError, match="none of the 9 prompts is left; 9 are held out as well"):
        prompts(file, dataset_test_split=write(tmp_path / "same.jsonl", list(read_jsonl(file))))


def test_of_a_whole_solution_the_boxed_answer_is_gold(tmp_path):
    solution = r"So $x=\boxed{4}$, and the area is $\boxed{\frac{36}{7}}$. Done."
    file = write(tmp_path / "rows.jsonl", [{"prompt": "w1", "solution": solution, "gold": r"\pi"}])
    assert prompts(file, gold_template="{solution}").train["gold"][:] == [r"\frac{36}{7}"]
    assert prompts(file, gold_template="{solution}", grader="text").train["gold"][:] == [solution]
    assert prompts(file).train["gold"][:] == [r"\pi"]


def test_reasoning_gym_makes_and_holds_out_its_own():
    pytest.importorskip("reasoning_gym")
    found = prompts(
        "reasoning_gym/chain_sum", num_prompts=40, num_heldout=10, seed=3,
        task_config="{min_terms: 2, max_terms: 2, max_digits: 1}",
    )  # fmt: skip
    counts = found.counts
    assert (counts["read"], counts["heldout"]) == (40, 10)
    assert 40 - counts["duplicates"] - counts["also_heldout"] == counts["used"] == len(found.train)
    assert len(set(used(found))) == len(found.train)
    assert not set(used(found)) & set(found.heldout["prompt"])
    gold = json.loads(found.train[0]["gold"])
    config = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    assert {**gold, "digest": None} == {
        "task": "chain_sum",
        "size": 50,
        "seed": 3,
        "index": 0,
        "config": config,
        "digest": None,
    }
    assert {json.loads(gold)["index"] for gold in found.heldout["gold"]} <= set(range(40, 50))
    assert found.grader == "reasoning_gym"
    assert (
        prompts("reasoning_gym/chain_sum", num_prompts=2)
        .train[0]["prompt"]
        .endswith("starts with Answer:\n")
    )
    assert (
        prompts("reasoning_gym/chain_sum", num_prompts=2, chat=True).train[0]["prompt"][0]["role"]
        == "user"
    )


ROWS = [
    {"prompt": "w1", "gold": "1", "x": {"y": "z"}, "n": None},
    {"prompt": "", "gold": None, "x": None, "n": None},
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"row 1 has no prompt|row 1 has no gold"),
        ({"prompt_template": "Q {prompt}"}, r"row 1 has no gold answer"),
        ({"gold_template": "{n}"}, "row 0 has no gold answer"),
        ({"gold_template": "{x[y]}"}, r"gold_template='\{x\[y\]\}' does not fit a row"),
        (
            {"gold_template": "{x[q]}"},
            r"gold_template='\{x\[q\]\}' does not fit a row \(KeyError\('q'\)\)",
        ),
        ({"gold_template": "{z[q]}"}, r"names \['z'\], but the data has the columns"),
        ({"gold_template": "{gold"}, r"write a brace that belongs to the text twice"),
        ({"grader": "maths"}, "grader='maths' does not exist"),
        ({"num_prompts": 0}, "num_prompts=0 must be at least 1"),
        ({"system_prompt": "a"}, "system_prompt='a' needs chat"),
        ({"num_heldout": 1, "dataset_test_split": "a.jsonl"}, "num_heldout=1: give one"),
        ({"dataset_test_split": "test"}, "has no splits"),
        ({"task_config": {"a": 1}}, "needs dataset_name: reasoning_gym"),
        ({"benchmark_format": "mbp"}, "benchmark_format='mbp' is unknown: choose from aime24"),
        (
            {"benchmark_format": "mbpp", "grader": "code"},
            "grader='code' does not go with benchmark_format='mbpp'",
        ),
        (
            {"benchmark_format": "gsm8k"},
            r"\(benchmark_format='gsm8k'\), row 0 cannot be read \(no column 'answer'\)",
        ),
        (
            {"dataset_name": "", "benchmark_format": "gsm8k", "dataset_config": "main"},
            "need a dataset_name",
        ),
        (
            {"dataset_name": "reasoning_gym/chain_sum", "grader": "math"},
            "grader='math' does not go with dataset_name",
        ),
        ({"decontaminate": ["gsm9k"]}, "gsm9k"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(options, message, tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(UserError, match=message) as error:
        prompts(**{"name": options.pop("dataset_name", file), **options})
    assert "\n" not in str(error.value)


def test_options_from_the_command_line():
    argv = [
        "--dataset_name",
        "reasoning_gym/chain_sum",
        "--task_config",
        "{min_terms: 2}",
        "--chat",
    ]
    argv += ["--decontaminate", "[gsm8k, math500]"]
    (parsed,), _ = Parser("rlvr", [PromptArguments]).resolve(None, argv)
    assert (parsed.task_config, parsed.chat) == ({"min_terms": 2}, True)
    assert parsed.decontaminate == ["gsm8k", "math500"]
    with pytest.raises(UserError, match="task_config"):
        Parser("rlvr", [PromptArguments]).resolve(None, ["--task_config", "[a"])
    with pytest.raises(UserError, match=r"task_config='a' must be a mapping"):
        Parser("rlvr", [PromptArguments]).resolve(None, ["--task_config", "a"])
