"""Which results go to leaderboards: the Hub's list where it answers, and the shipped one if not."""

from __future__ import annotations

import json

import pytest
import yaml
from hub_stand_in import hub_stand_in, point_client_at
from published_run import VARIANT
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.terms import TERMS
from shaped_eval.hub import leaderboards as module
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard, leaderboards
from shaped_eval.publish import PublishOptions, publish
from shaped_eval.report import report_run

GPQA = BENCHMARKS["gpqa_diamond"].dataset_id


@pytest.fixture
def hub(monkeypatch):
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        yield server


def listing(*ids) -> bytes:
    return json.dumps([{"id": each, "tags": ["benchmark:official"]} for each in ids]).encode()


def with_tasks(hub, dataset_id, tasks) -> None:
    content = tasks if isinstance(tasks, bytes) else yaml.safe_dump({"tasks": tasks}).encode()
    hub.files["dataset", dataset_id] = {"eval.yaml": content}


def test_the_list_is_asked_for_as_the_client_asks_for_it(hub):
    from huggingface_hub import list_datasets

    assert leaderboards() == (LEADERBOARDS, None)
    assert [one.id for one in list_datasets(benchmark=True)]
    asked = [line for line in hub.requests if "/api/datasets?" in line]
    assert [line.partition("?")[0] for line in asked] == ["GET /api/datasets"] * 2
    assert all("filter=benchmark%3Aofficial" in line for line in asked)


def test_the_hubs_list_adds_and_removes(hub):
    hub.official = listing("openai/gsm8k", GPQA, "somebody/else")
    with_tasks(hub, GPQA, [{"id": "diamond", "config": "gpqa_diamond", "split": "train"}])
    found, note = leaderboards()
    assert note is None
    assert found == {
        "gsm8k": LEADERBOARDS["gsm8k"],
        "gpqa_diamond": Leaderboard(GPQA, "diamond", TERMS["gpqa_diamond"].rows),
    }


@pytest.mark.parametrize(
    ("tasks", "task"),
    [
        ([{"id": "all"}], "all"),
        ([{"id": "main", "config": "gpqa_main"}, {"id": "d", "config": "gpqa_diamond"}], "d"),
        ([{"id": "a"}, {"id": "b"}], None),
        ([{"id": "a", "split": "test"}], None),
        ([{"id": "../../etc"}], None),
        ([{"id": "a b\n- x"}], None),
        ([{"id": 7}], None),
        ([{"config": "gpqa_diamond"}], None),
        ("a text", None),
        (b"[", None),
        (b"tasks: !!python/object/apply:os.system [true]", None),
        (b"[" * 100_000, None),
        (b"# " + b"x" * module.MOST_BYTES_OF_TASKS, None),
    ],
    ids=str,
)
def test_the_task_is_the_only_one_of_our_config_and_split(hub, tasks, task):
    hub.official = listing(GPQA)
    with_tasks(hub, GPQA, tasks)
    found, _ = leaderboards()
    assert found == ({} if task is None else {"gpqa_diamond": Leaderboard(GPQA, task, 198)})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "the Hub answered 404"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": "openai/gsm8k"}', "not a list"),
        (b"[" + b" " * module.MOST_BYTES + b"]", "more than 8,388,608 bytes"),
    ],
    ids=("none", "a page", "nested", "an object", "large"),
)
def test_without_a_list_the_shipped_one_is_used_and_a_line_says_so(hub, answer, reason):
    hub.official = answer
    found, note = leaderboards()
    assert found is LEADERBOARDS
    assert reason in note
    assert "\n" not in note


def test_an_answer_that_drips_is_left(hub, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    found, note = leaderboards()
    assert found is LEADERBOARDS
    assert note


def test_ids_of_another_form_are_left_out(hub):
    hub.official = json.dumps(
        [{"id": "openai/gsm8k"}, {"id": 3}, {"id": "a/b/c"}, {"id": "../x"}, {}, [], "openai/gsm8k"]
    ).encode()
    assert module._official() == {"openai/gsm8k"}


def test_only_so_many_data_sets_are_read(hub):
    hub.official = listing(*(f"me/{i}" for i in range(module.MOST_DATA_SETS)), "openai/gsm8k")
    assert len(module._official()) == module.MOST_DATA_SETS


def test_results_of_all_that_match_are_pushed(run, hub, capsys):
    """GSM8K has an entry by the Hub's list, and none as soon as the Hub no longer lists it."""
    report_run(run)
    publish([run], PublishOptions(push_to_hub="me/tiny"))
    assert f".eval_results/{VARIANT}.yaml" in hub.files["model", "me/tiny"]
    hub.official = listing()
    publish([run], PublishOptions(push_to_hub="me/other"))
    assert not [path for path in hub.files["model", "me/other"] if "eval_results" in path]
    hub.official = None
    publish([run], PublishOptions(push_to_hub="me/third"))
    assert f".eval_results/{VARIANT}.yaml" in hub.files["model", "me/third"]
    assert "the Hub's list of benchmarks was not read, and ours is used" in capsys.readouterr().err


def test_without_a_push_nothing_is_asked(run, checkpoint, hub):
    report_run(run)
    publish([run], PublishOptions(publish_to=str(checkpoint)))
    assert (checkpoint / ".eval_results" / f"{VARIANT}.yaml").is_file()
    assert hub.requests == []
