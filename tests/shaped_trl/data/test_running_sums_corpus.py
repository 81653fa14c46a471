"""The corpus of the controlled task: what its texts say, how often, and that it never shows a
held-out prompt."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from shaped_eval.benchmarks.running_sums import (
    RunningSums,
    answer_of,
    is_held_out,
    problems,
    running_sums,
)
from shaped_eval.errors import UserError
from shaped_eval.grading.text.running_sums import grade
from shaped_eval.records import read_jsonl

from shaped_trl.data.running_sums import PLAIN_FILLERS, corpus_rows, prompt_rows, write_corpus
from shaped_trl.data.tokenizers import train_tokenizer

ROWS = 4000
FILES = ("train.jsonl", "heldout.jsonl", "rl_prompts.jsonl")


def digits_of(prompt: str) -> list[int]:
    return [int(word) for word in prompt.split() if word.isdigit()]


def share(cases) -> float:
    cases = list(cases)
    return sum(cases) / len(cases)


@pytest.fixture(scope="module")
def rows():
    return list(islice(corpus_rows(RunningSums()), ROWS))


def test_work_is_right_but_for_fillers(rows):
    options = RunningSums()
    for row in rows:
        digits, words = digits_of(row["prompt"]), row["completion"].split()
        if words[0] == "work":
            steps = words[1 : 1 + len(digits)]
            right = [str(total) for total in running_sums(digits, options)]
            assert all(
                step in (total, *options.fillers())
                for step, total in zip(steps, right, strict=True)
            )
            assert words[1 + len(digits) :] == ["answer", *answer_of(digits, options).split()]
        else:
            assert words[0] == "answer"
            assert len(words) == 4


def test_frequencies_are_those_of_the_options(rows):
    worked = [row for row in rows if row["completion"].startswith(" work")]
    guessed = [row for row in rows if not row["completion"].startswith(" work")]
    steps = [
        word
        for row in worked
        for word in row["completion"].split()[1 : 1 + len(digits_of(row["prompt"]))]
    ]
    # three standard errors each
    assert len(worked) / ROWS == pytest.approx(0.7, abs=0.022)
    assert share(word.startswith("w") for word in steps) == pytest.approx(0.1, abs=0.007)
    lengths = [len(digits_of(row["prompt"])) for row in rows]
    assert set(lengths) == set(range(4, 9))
    assert lengths.count(8) / ROWS == pytest.approx(0.2, abs=0.019)
    right = [
        grade(row["completion"], answer_of(digits_of(row["prompt"]), RunningSums()))[0]
        for row in guessed
    ]
    assert share(status == "pass" for status in right) < 0.01


def test_lengths_are_as_frequent_as_their_weights():
    options = RunningSums.of(length_weights=[5, 0, 3, 2], max_digits=7)
    lengths = [len(digits_of(row["prompt"])) for row in islice(corpus_rows(options), ROWS)]
    for digits, expected in {4: 0.5, 5: 0, 6: 0.3, 7: 0.2}.items():
        standard_error = (expected * (1 - expected) / ROWS) ** 0.5
        assert lengths.count(digits) / ROWS == pytest.approx(expected, abs=3 * standard_error)
    asked = [len(digits_of(row["prompt"])) for row in islice(prompt_rows(options), ROWS)]
    assert asked.count(5) / ROWS == pytest.approx(1 / 8, abs=0.016)


def test_fillers_follow_the_power_law():
    options = RunningSums(noise=1.0, p_long=1.0, vocabulary_size=64)
    words = [
        word for row in islice(corpus_rows(options), 2000) for word in row["completion"].split()
    ]
    fillers = options.fillers()
    total = sum(1 / rank for rank in range(1, len(fillers) + 1))
    counted = sum(word in set(fillers) for word in words)
    for rank in (1, 2, 10):
        expected = 1 / rank / total
        standard_error = (expected * (1 - expected) / counted) ** 0.5
        assert words.count(f"w{rank}") / counted == pytest.approx(expected, abs=3 * standard_error)


def test_no_text_to_train_on_shows_a_held_out_prompt(rows):
    validation = list(islice(corpus_rows(RunningSums(), held_out=True), 500))
    rl = list(islice(prompt_rows(RunningSums()), 500))
    assert not any(is_held_out(row["prompt"]) for row in rows + rl)
    assert all(is_held_out(row["prompt"]) for row in validation)
    asked = {problem.prompt for problem in problems(count=200)}
    assert not asked & {row["prompt"] for row in rows + rl}


def test_rl_prompts_bring_their_gold():
    rl = list(islice(prompt_rows(RunningSums()), 400))
    assert all(row["gold"] == answer_of(digits_of(row["prompt"]), RunningSums()) for row in rl)
    lengths = [len(digits_of(row["prompt"])) for row in rl]
    assert set(lengths) == set(range(4, 12))


def test_written_files_have_the_same_bytes_for_the_same_seed(tmp_path):
    counts = {"train_rows": 300, "heldout_rows": 20, "rl_rows": 30}
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_corpus(tmp_path / folder, seed=seed, **counts)
    for name, count in zip(FILES, counts.values(), strict=True):
        written = (tmp_path / "a" / name).read_bytes()
        assert len(list(read_jsonl(tmp_path / "a" / name))) == count
        assert written == (tmp_path / "b" / name).read_bytes()
        assert written != (tmp_path / "c" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rl_rows": 0}, "rl_rows=0: give a whole number"),
        ({"noise": 2}, "noise=2 is not a probability"),
        ({"zipf": 1}, "zipf: no such"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        write_corpus(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_a_word_tokenizer_holds_the_vocabulary_and_round_trips(rows):
    options = RunningSums(vocabulary_size=64)
    texts = [row["prompt"] + row["completion"] for row in islice(corpus_rows(options), 8000)]
    tokenizer = train_tokenizer(texts, "word", options.vocabulary_size)
    assert len(tokenizer) == options.vocabulary_size
    ids = tokenizer(texts[0]).input_ids
    assert len(ids) == len(texts[0].split())
    assert tokenizer.decode(ids) == texts[0]
    prompt = texts[0][: texts[0].index("=") + 1]
    assert ids[: len(prompt.split())] == tokenizer(prompt).input_ids


def test_plain_texts_are_mixed_in_and_held_out_apart(tmp_path):
    write_corpus(tmp_path, train_rows=ROWS, heldout_rows=100, rl_rows=1, plain_share=0.3, seed=1)
    train, held_out = (list(read_jsonl(tmp_path / name)) for name in FILES[:2])
    plain = [row["completion"].split() for row in train if row["prompt"] == "="]
    assert len(plain) / ROWS == pytest.approx(0.3, abs=0.022)
    fillers = RunningSums().fillers()[:PLAIN_FILLERS]
    assert {word for words in plain for word in words} <= set(fillers)
    # the step from one place to the next is what follows the power law: the word before says which
    # word is likely
    places = [[fillers.index(word) for word in words] for words in plain]
    steps = [(b - 7 * a) % len(fillers) for words in places for a, b in pairwise(words)]
    assert steps.count(0) / len(steps) == pytest.approx(
        1 / sum(1 / r for r in range(1, len(fillers) + 1)), abs=0.01
    )
    assert [row["source"] for row in held_out] == ["sums"] * 100 + ["text"] * 100
    assert not {row["completion"] for row in held_out[100:]} & {row["completion"] for row in train}
    write_corpus(tmp_path / "without", train_rows=50, heldout_rows=1, rl_rows=1, seed=1)
    others = [row for row in train if row["prompt"] != "="][:50]
    assert list(read_jsonl(tmp_path / "without" / FILES[0])) == others


def test_texts_of_mid_training_all_work_and_are_as_long_as_problems(tmp_path):
    write_corpus(tmp_path, train_rows=1, heldout_rows=1, rl_rows=1, midtrain_rows=ROWS, p_long=0.2)
    rows = list(read_jsonl(tmp_path / "midtrain.jsonl"))
    assert all(row["completion"].startswith(" work") for row in rows)
    lengths = [len(digits_of(row["prompt"])) for row in rows]
    assert set(lengths) == set(range(4, 12))
    assert lengths.count(11) / ROWS == pytest.approx(1 / 8, abs=0.016)
    assert not any(is_held_out(row["prompt"]) for row in rows)
