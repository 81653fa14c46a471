"""Suites and groups, benchmarks of other tables, and `shaped-trl sample --show`."""

from __future__ import annotations

import sys
import types

import pytest
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.registry import BENCHMARKS, ELSEWHERE, GENERATED, Elsewhere, check_names
from shaped_eval.benchmarks.suites import (
    BASE,
    GROUPS,
    MATH2026,
    MODERN,
    RL,
    SUITES,
    group_averages,
    group_of,
    suite_names,
)
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Problem

from shaped_trl import cli, recipes
from shaped_trl.options import GradeOptions


def test_the_papers_benchmarks_are_19_in_5_groups():
    assert {group: len(names) for group, names in GROUPS.items()} == {
        "knowledge": 4,
        "commonsense": 6,
        "logic": 3,
        "math": 4,
        "code": 2,
    }
    assert len(BASE) == len(set(BASE)) == 19
    assert set(SUITES["all"]) == {*BASE, *RL, "humaneval", "mbpp"}
    assert all(len(names) == len(set(names)) for names in SUITES.values())
    assert (group_of("minerva"), group_of("bbh"), group_of("aime24")) == ("math", "logic", None)


def test_averages_are_over_whole_groups_only():
    values = {name: float(index) for index, name in enumerate(GROUPS["math"])}
    assert group_averages(values) == {"math": 1.5}
    assert group_averages({**values, "humanevalplus": 1.0}) == {"math": 1.5}
    rest = dict.fromkeys(BASE, 2.0)
    assert group_averages({**rest, **values})["base"] == (15 * 2 + 6) / 19
    assert group_averages(dict.fromkeys(RL, 0.25)) == {"rl": 0.25}


def test_a_suite_stands_for_its_names():
    config = SampleConfig(model="m", suite="rl")
    assert config.benchmark_names == list(RL) == suite_names("rl")
    with pytest.raises(
        UserError, match=r"suite='bace' is unknown: choose from base, .*; did you mean 'base'\?"
    ):
        SampleConfig(model="m", suite="bace")
    with pytest.raises(UserError, match="benchmarks='gsm8k' and suite='rl' are both given"):
        SampleConfig(model="m", suite="rl", benchmarks="gsm8k")
    with pytest.raises(UserError, match="benchmarks is empty"):
        SampleConfig(model="m")


def test_the_command_lines_choice_replaces_the_recipes(tmp_path):
    parser = recipes.Parser("eval", [SampleConfig, GradeOptions])
    given = ["--model", "m", "--out", str(tmp_path)]
    assert parser.resolve("eval/rl", given)[0][0].benchmark_names == list(RL)
    assert parser.resolve("eval/rl", [*given, "--benchmarks", "gsm8k"])[0][0].benchmark_names == [
        "gsm8k"
    ]
    assert parser.resolve("demo/eval", [*given, "--suite", "rl"])[0][0].benchmark_names == list(RL)
    with pytest.raises(UserError, match="both given"):
        parser.resolve("eval/rl", [*given, "--suite", "math", "--benchmarks", "gsm8k"])


def test_the_newer_suites_are_no_part_of_the_one_that_runs_have_begun_with():
    assert set(MATH2026) < set(MODERN)
    assert not set(MODERN) - {"mmlu_pro"} & set(SUITES["all"])
    settings = recipes.load(recipes.find("eval/math2026"))
    assert (settings["suite"], settings["shots"]) == ("math2026", 0)
    assert settings["n"] >= 32


@pytest.mark.parametrize(
    ("name", "tokens"), [("base", 4096), ("math", 4096), ("code", 4096), ("rl", 16384)]
)
def test_the_papers_settings_are_recipes(name, tokens):
    settings = recipes.load(recipes.find(f"eval/{name}"))
    assert settings == {
        "suite": name,
        "n": 128,
        "temperature": 0.7,
        "top_p": 0.95,
        "max_new_tokens": tokens,
        **({"shots": 0} if name == "rl" else {}),
    }


@pytest.fixture
def other_table(monkeypatch):
    """A benchmark of another package's table, as its two lines add it."""
    module = types.ModuleType("other_table")
    module.problems = lambda name, **options: [
        Problem(f"{name}/0", name, repr(options), "g", "math")
    ]
    monkeypatch.setitem(sys.modules, "other_table", module)
    monkeypatch.setitem(
        ELSEWHERE, "trivia", Elsewhere("other_table", package="json", extra="tables")
    )


def test_another_tables_problems_are_asked_for_with_every_option(other_table):
    (problem,) = load_problems(["trivia"], hub_mirror="m", limit=3, shots=2)
    assert problem.prompt == "{'hub_mirror': 'm', 'limit': 3, 'chat': False, 'shots': 2}"


def test_a_missing_extra_is_one_line_before_anything_is_read(other_table, monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setitem(
            ELSEWHERE, name, Elsewhere("nowhere", package="no_such_package", extra="tables")
        )
    with pytest.raises(
        UserError, match=r"'no_such_package' .* one, two: pip install 'shaped-trl\[tables\]'"
    ):
        check_names(["trivia", "one", "two"])


def show(capfdbinary, *argv: str) -> tuple[int, bytes, str]:
    code = cli.main(["sample", *argv])
    captured = capfdbinary.readouterr()
    return code, captured.out, captured.err.decode()


def test_show_prints_the_first_prompt_and_nothing_else(mirror, capfdbinary):
    (problem,) = load_problems(["gsm8k"], hub_mirror=mirror, limit=1)
    code, out, err = show(capfdbinary, "--show", "gsm8k", "--hub_mirror", str(mirror))
    assert (code, out) == (0, problem.prompt.encode())
    assert "gold: '0'" in err
    assert "grader: 'gsm8k'" in err
    _, out, _ = show(
        capfdbinary, "--show=gsm8k", "--hub_mirror", str(mirror), "--shots", "0", "--model", "m"
    )
    assert out == b"Question: w0 w1\nAnswer:"
    _, out, _ = show(
        capfdbinary, "--show", "gsm8k", "--hub_mirror", str(mirror), "--chat_template", "true"
    )
    assert out.decode() == load_problems(["gsm8k"], hub_mirror=mirror, limit=1, chat=True)[0].prompt
    _, out, _ = show(
        capfdbinary, "--config", "eval/rl", "--show", "gsm8k", "--hub_mirror", str(mirror)
    )
    assert out == b"Question: w0 w1\nAnswer:"  # the recipe's shots


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--show", "gsm8j"], "did you mean 'gsm8k'"),
        (
            ["--show", "gsm8k", "--shots", "9", "--hub_mirror", "MIRROR"],
            "gsm8k has 4 worked examples",
        ),
        (["--show", "gsm8k", "--shot", "9"], "unknown flag: --shot; did you mean --shots?"),
        (["--show", "gsm8k", "--hub_mirror", "nowhere"], "has no data set 'openai/gsm8k'"),
        (["--show"], "--show"),
    ],
)
def test_what_cannot_be_shown_is_one_line(mirror, capfdbinary, argv, message):
    code, out, err = show(
        capfdbinary, *[str(mirror) if word == "MIRROR" else word for word in argv]
    )
    assert (code, out) == (2, b"")
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_every_row_of_the_table_is_in_a_suite():
    # of livecodebench, which takes GB, the suite has the newest part
    in_suites = {name for names in SUITES.values() for name in names}
    assert set(BENCHMARKS) - in_suites == {"livecodebench"}
    assert not set(GENERATED) & set(SUITES["all"])
