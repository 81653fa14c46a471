"""Checkpoints on a stand-in for the Hub: content, loading by plain transformers, failures."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from graded_runs import write_run
from hub_stand_in import TOKEN, client_environment, hub_stand_in, point_client_at
from huggingface_hub import ModelCard, constants, snapshot_download
from pushed_runs import ELSEWHERE, MODEL, contents, only_error, train, write_rows
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard
from shaped_eval.hub.model_card import with_results_of

from shaped_trl import cli
from shaped_trl.hub.private import public_recipe

# the client itself uploads files in this way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
REPOSITORY = ("model", "me/tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub(folder):
    """A pushed model, and adapters of it that were trained from the Hub and from a local copy."""
    patch = pytest.MonkeyPatch()
    with hub_stand_in() as server:
        point_client_at(server, patch)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        server.large = (".safetensors",)
        mirror = folder / "mirror"
        write_rows(mirror / "someone" / "corpus" / "default" / "train.jsonl")
        (mirror / "someone" / "corpus" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
        mine = write_rows(folder / "mine" / "a.jsonl")
        mixture = [
            {
                "dataset_name": mine,
                "weight": 0.75,
                "dataset_test_split": mine,
                "dataset_license": "mit",
            },
            {"dataset_name": "someone/corpus", "weight": 0.2},
            {
                "dataset_name": write_rows(folder / "mine" / "b.jsonl"),
                "weight": 0.05,
                "dataset_test_split": mine,
            },
        ]
        schedule = {"beta": {"kind": "linear", "start": 0.0, "end": -0.25}}
        given = {
            "mixture": mixture,
            "hub_mirror": str(mirror),
            "shape_schedule": schedule,
            "lambda_tail": -0.1,
        }
        given |= {"top_k": 5, "from_scratch": MODEL, "tokenizer_kind": "word", "push_to_hub": True}
        assert (
            train(
                folder,
                "run",
                **given,
                hub_model_id="me/tiny",
                hub_token=TOKEN,
                hub_license="apache-2.0",
            )
            == 0
        )
        server.first_push = list(server.requests)
        lora = {
            "dataset_name": mine,
            "use_peft": True,
            "lora_target_modules": "all-linear",
            "learning_rate": 1e-2,
        }
        lora |= {"push_to_hub": True, "save_strategy": "no"}
        assert (
            train(folder, "of-hub", **lora, model_name_or_path="me/tiny", hub_model_id="me/adapter")
            == 0
        )
        local = {"model_name_or_path": str(folder / "run"), "hub_model_id": "me/local-adapter"}
        assert train(folder, "of-folder", **lora, **local, hub_private_repo=True) == 0
        yield server
    patch.undo()


@pytest.mark.slow
def test_what_a_first_push_sends(hub, folder):
    pushes = [
        line
        for line in hub.first_push
        if not line.startswith(("HEAD", "GET", "POST /api/validate-yaml"))
    ]
    steps = [re.sub(r"/large/\w{64}\?size=\d+", "/large", line) for line in pushes]
    large = ["POST /me/tiny.git/info/lfs/objects/batch", "PUT /large", "POST /large/verify"]
    ends = ["POST /api/models/me/tiny/preupload/main", "POST /api/models/me/tiny/commit/main"]
    assert steps[:6] == ["POST /api/repos/create", ends[0], *large, ends[1]]
    # the weights of the last step and the saved model are the same object
    assert steps.count("PUT /large") == 2
    assert hub.messages[:1] == ["Training in progress, step 2"]
    assert "End of training" in hub.messages
    files = hub.files[REPOSITORY]
    assert set(files) == {
        *(
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "resolved.yaml",
        ),
        *("tokenizer.json", "tokenizer_config.json", "train_log.jsonl", "train_log.png"),
    }
    weights = (folder / "run" / "model.safetensors").read_bytes()
    assert hashlib.sha256(files["model.safetensors"]).digest() == hashlib.sha256(weights).digest()
    assert {hashlib.sha256(weights).hexdigest()} <= hub.verified
    assert files["train_log.png"] == (folder / "run" / "train_log.png").read_bytes()
    assert hub.private == {
        REPOSITORY: False,
        ("model", "me/adapter"): False,
        ("model", "me/local-adapter"): True,
    }


@pytest.mark.slow
def test_nothing_of_this_machine_is_sent(hub, folder):
    for repository, files in hub.files.items():
        for path, content in files.items():
            for secret in (str(folder), TOKEN):
                assert secret.encode() not in content, (repository, path)
        recipe = yaml.safe_load(files["resolved.yaml"])
        assert not {"output_dir", "hub_mirror", "hub_token"} & recipe.keys()
    assert TOKEN not in (folder / "run" / "resolved.yaml").read_text()
    assert not list(folder.rglob("_push-*"))
    recipe = yaml.safe_load(hub.files[REPOSITORY]["resolved.yaml"])
    assert not {"push_to_hub", "hub_model_id"} & recipe.keys()
    assert [entry["dataset_name"] for entry in recipe["mixture"]] == [
        "a.jsonl",
        "someone/corpus",
        "b.jsonl",
    ]


def test_the_card_says_what_was_done(hub):
    text = hub.files[REPOSITORY]["README.md"].decode()
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["someone/corpus"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert "licence" not in card.data.to_dict()
    assert card.data.base_model is None
    for part in [
        "was trained from scratch",
        "| `a.jsonl` |  |  | 75.00% | a.jsonl | mit |",
        "[someone/corpus](https://huggingface.co/datasets/someone/corpus) |  | train | 20.00% |  | "
        "cc-by-4.0 |",
        "| `b.jsonl` |  |  | 5.00% | a.jsonl | not stated |",
        "| beta | scheduled |",
        "| lambda_tail | -0.1 |",
        "| top_k | 5 |",
        '`{"beta": {"kind": "linear", "start": 0.0, "end": -0.25}}`',
        "Trained on 256 tokens in 4 steps.",
        "| nll, held out, a.jsonl |",
        "| tail mass, held out |",
        "![curves](train_log.png)",
        "<summary>Recipe: resolved.yaml</summary>",
        "eprint={2512.22955}",
    ]:
        assert part in text, part
    assert hub.files[REPOSITORY]["resolved.yaml"].decode() in text


def test_the_cards_of_adapters_name_their_base(hub, folder):
    cards = [
        ModelCard(hub.files["model", name]["README.md"].decode())
        for name in ("me/adapter", "me/local-adapter")
    ]
    assert [card.data.library_name for card in cards] == ["peft", "peft"]
    assert [card.data.base_model for card in cards] == ["me/tiny", None]
    assert all("license" not in card.data.to_dict() for card in cards)
    assert 'PeftModel.from_pretrained(base, "me/adapter")' in cards[0].text
    assert "`run`, a local model" in cards[1].text
    config = json.loads(hub.files["model", "me/local-adapter"]["adapter_config.json"])
    assert config["base_model_name_or_path"] == "run"
    kept = json.loads((folder / "of-folder" / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str(folder / "run")


@pytest.mark.slow
def test_plain_transformers_loads_what_was_pushed(hub, folder):
    names = ["me/tiny", str(folder / "run"), "me/adapter", str(folder / "of-hub")]
    environment = os.environ | client_environment(hub, folder / "home") | {"PYTHONPATH": ""}
    command = [sys.executable, "-c", ELSEWHERE, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["me/tiny"] == found[names[1]]
    assert found["me/adapter"] == found[names[3]]
    assert found["me/adapter"] != found["me/tiny"]
    assert all(found[f"example of {name}"].strip() for name in ("me/tiny", "me/adapter"))
    copy = Path(snapshot_download("me/tiny", cache_dir=str(folder / "cache")))
    assert (copy / "model.safetensors").read_bytes() == (
        folder / "run" / "model.safetensors"
    ).read_bytes()


@pytest.fixture
def finished(hub, folder, tmp_path) -> list[str]:
    """The command of a finished run in a copy of its folder that was never pushed."""
    shutil.copytree(folder / "run", tmp_path / "later")
    options = ["--output_dir", str(tmp_path / "later"), "--hub_model_id", "me/later"]
    yield ["train", "--config", str(folder / "run.yaml"), *options]
    hub.files.pop(("model", "me/later"), None)


def test_a_finished_run_is_pushed_when_that_is_asked_for(hub, finished, tmp_path, capsys):
    weights = (tmp_path / "later" / "model.safetensors").stat().st_mtime_ns
    assert cli.main(finished) == 0
    assert f"pushed: {hub.url}/me/later" in capsys.readouterr().out
    assert 'from_pretrained("me/later")' in hub.files["model", "me/later"]["README.md"].decode()
    assert (tmp_path / "later" / "model.safetensors").stat().st_mtime_ns == weights
    commits = len(hub.messages)
    assert cli.main(finished) == 0  # the Hub has it all: no commit
    assert len(hub.messages) == commits


def test_results_in_a_checkpoint_stay_and_are_pushed(hub, finished, tmp_path, monkeypatch):
    checkpoint = tmp_path / "later"
    monkeypatch.setitem(LEADERBOARDS, "gsm8k", Leaderboard("openai/gsm8k", "gsm8k", 2))
    run = write_run(tmp_path / "evaluation", {"gsm8k": ["ppaa", "paaa"]}, model=str(checkpoint))
    assert cli.main(["report", str(run), "--publish_to", str(checkpoint)]) == 0
    assert cli.main([*finished, "--hub_license", "mit"]) == 0
    files = hub.files["model", "me/later"]
    (name,) = [path for path in files if path.startswith(".eval_results/")]
    assert files[name] == (checkpoint / name).read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert {result.dataset_type for result in card.data.eval_results} == {"openai/gsm8k"}
    assert "<!-- results of gsm8k_n4_t0.7 -->" in card.text
    # also if a trainer writes the card anew
    anew = with_results_of(
        (checkpoint / "README.md").read_text(), "---\nlicense: mit\n---\n# New\n"
    )
    assert anew.startswith("---\nlicense: mit\nmodel-index:\n")
    assert "# New" in anew
    assert anew.count("<!-- results of gsm8k_n4_t0.7 -->") == 1
    assert with_results_of(anew, anew) == anew


@pytest.mark.parametrize(
    ("where", "refuse", "parts"),
    [
        ("/create", (401, "", "Invalid credentials"), ["401", "hf auth login", "HF_TOKEN"]),
        ("/create", (403, "", "You don't have the rights"), ["403", "may write there"]),
        (
            "/commit/",
            (403, "", "Private repository storage limit reached"),
            ["no room", "storage limit"],
        ),
        ("/batch", (413, "", "Payload Too Large"), ["no room", "413"]),
        ("/commit/", (507, "", "Insufficient Storage"), ["no room", "507"]),
        ("", None, ["cannot be reached"]),
    ],
    ids=["token", "right", "quota", "too_large", "storage", "network"],
)
def test_a_failed_push_is_one_line_and_can_be_repeated(
    where, refuse, parts, hub, finished, tmp_path, monkeypatch, capsys
):
    hub.objects.clear()  # as before any upload
    before = contents(tmp_path / "later")
    with monkeypatch.context() as patch:
        patch.setattr(hub, "refused", where)
        patch.setattr(hub, "refuse", refuse)
        if refuse is None:
            patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert cli.main(finished) == 2
    error = only_error(capsys)
    assert all(part in error for part in [*parts, "hub_model_id='me/later'"]), error
    assert TOKEN not in error
    assert contents(tmp_path / "later") == before


def test_without_the_right_nothing_is_trained(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(hub, "refused", "/create")
    monkeypatch.setattr(hub, "refuse", (403, "", "You don't have the rights"))
    given = {
        "dataset_name": str(folder / "mine" / "a.jsonl"),
        "model_name_or_path": str(folder / "run"),
    }
    assert train(folder, "refused", **given, push_to_hub=True, hub_model_id="you/tiny") == 2
    assert "hub_model_id='you/tiny'" in only_error(capsys)
    assert not list((folder / "refused").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_push_that_fails_during_training_is_a_warning(hub, folder, monkeypatch, capsys, caplog):
    """With `hub_strategy: checkpoint`, the Hub also has what a run resumes from."""
    monkeypatch.setattr(hub, "refuse", (403, "", "Repository storage limit reached"))
    given = {
        "dataset_name": str(folder / "mine" / "a.jsonl"),
        "model_name_or_path": str(folder / "run"),
    }
    given |= {"push_to_hub": True, "hub_model_id": "me/full", "hub_strategy": "checkpoint"}
    assert train(folder, "full", **given) == 2
    warnings = [
        record.getMessage() for record in caplog.records if "was not pushed" in record.getMessage()
    ]
    assert warnings
    assert "no room" in warnings[0]
    assert "run the same command again to push it" in only_error(capsys)
    assert hub.files["model", "me/full"] == {}
    shutil.rmtree(folder / "full" / "checkpoint-4")
    monkeypatch.setattr(hub, "refuse", None)
    events = folder / "full" / "runs" / "a-day_a-host" / "events.out.tfevents.1.a-host.2.0"
    events.parent.mkdir(parents=True)
    events.touch()
    assert train(folder, "full", **given) == 0
    files = hub.files["model", "me/full"]
    assert {
        "model.safetensors",
        "last-checkpoint/optimizer.pt",
        "last-checkpoint/trainer_state.json",
    } <= set(files)
    assert not [path for path in files if path.endswith("training_args.bin") or "tfevents" in path]


def test_a_published_recipe_has_no_credentials_and_no_addresses():
    settings = {
        "model_init_kwargs": {"token": TOKEN, "dtype": "auto", "x": {"api_key": "a", "y": 1}},
        "dataset_kwargs": '{"password": "a", "z": 2}',
        "vllm_server_base_url": "http://node17:8000",
        "main_process_ip": "node17",
        "dataset_name": "https://me:pw@host/a.jsonl",
        "run_name": "with hf_" + 17 * "aB",
        "eos_token": "<eos>",
        "model_name_or_path": "HuggingFaceTB/hf_ultrafeedback_binarized",
    }
    assert yaml.safe_load(public_recipe(yaml.safe_dump(settings))) == {
        "model_init_kwargs": {"dtype": "auto", "x": {"y": 1}},
        "dataset_kwargs": {"z": 2},
        "dataset_name": "https://host/a.jsonl",
        "run_name": "with …",
        "eos_token": "<eos>",
        "model_name_or_path": "HuggingFaceTB/hf_ultrafeedback_binarized",
    }


def test_a_published_recipe_has_no_paths():
    settings = {
        "mixture": '[{"dataset_name": "/home/me/a.jsonl", "weight": 1, "text_template": "/think {a}"}]',
        "model_name_or_path": "/home/me/model",
        "tokenizer_name_or_path": "openai/gsm8k",
        "prompt_template": "/no/think {question}",
        "output_dir": "/home/me/out",
        "hub_token": TOKEN,
        "beta": -0.25,
    }
    assert yaml.safe_load(public_recipe(yaml.safe_dump(settings))) == {
        "mixture": [{"dataset_name": "a.jsonl", "weight": 1, "text_template": "/think {a}"}],
        "model_name_or_path": "model",
        "tokenizer_name_or_path": "openai/gsm8k",
        "prompt_template": "/no/think {question}",
        "beta": -0.25,
    }
