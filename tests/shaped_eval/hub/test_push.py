"""Pushing results: what the real client sends to a stand-in of the Hub, and refusals."""

from __future__ import annotations

import pytest
import yaml
from hub_stand_in import TOKEN, hub_stand_in, point_client_at
from huggingface_hub import constants, parse_eval_result_entries
from published_run import CARD, VARIANT, write_run
from shaped_eval.publish import PublishOptions, publish

from shaped_trl import cli


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, with the real client pointed at it and logged in."""
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        yield server


def only_error(capsys) -> str:
    """The one line of standard error that is not a report's path."""
    (line,) = [
        one for one in capsys.readouterr().err.splitlines() if not one.startswith("written: ")
    ]
    return line


def test_push(run, checkpoint, hub, capsys):
    (checkpoint / "README.md").write_text(CARD)
    argv = [
        "report",
        str(run),
        "--publish_to",
        str(checkpoint),
        "--push_to_hub",
        "me/tiny",
        "--private",
    ]
    assert cli.main(argv) == 0
    model, samples = (
        hub.files["model", "me/tiny"],
        hub.files["dataset", "me/tiny-evaluation-samples"],
    )
    name = f".eval_results/{VARIANT}.yaml"
    assert model == {path: (checkpoint / path).read_bytes() for path in ("README.md", name)}
    assert set(samples) == {
        "README.md",
        f"{VARIANT}/samples.parquet",
        "running_sums_n4_t0.7_p0.95_len64/samples.parquet",
    }
    for path, content in samples.items():
        if path.endswith("parquet"):
            assert content == (run / "hub" / "samples" / path).read_bytes()
    (entry,) = parse_eval_result_entries(yaml.safe_load(model[name]))
    assert entry.source_url == f"{hub.url}/datasets/me/tiny-evaluation-samples"
    assert entry.source_url in model["README.md"].decode()
    assert all(hub.private.values())
    assert hub.messages == ["Evaluation results: gsm8k, running_sums"] * 2
    steps = [
        line
        for line in hub.requests
        if "/commit/" in line or "/create" in line or "/preupload/" in line
    ]
    assert steps == [
        "POST /api/repos/create",
        "POST /api/datasets/me/tiny-evaluation-samples/preupload/main",
        "POST /api/datasets/me/tiny-evaluation-samples/commit/main",
        "POST /api/repos/create",
        "POST /api/models/me/tiny/preupload/main",
        "POST /api/models/me/tiny/commit/main",
    ]
    printed = capsys.readouterr()
    assert f"{hub.url}/me/tiny/commit/" in printed.out
    assert TOKEN not in printed.out + printed.err
    for path in run.parent.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_second_push_keeps_what_others_changed_on_the_hub(run, checkpoint, hub):
    options = PublishOptions(push_to_hub="me/tiny")
    publish([run], options)
    files = hub.files["model", "me/tiny"]
    first = files["README.md"]
    files["README.md"] = first.replace(b"# tiny", b"# tiny, described\n\nBy its users.")
    publish([run, write_run(run.with_name("hotter"), checkpoint, temperature=1.0)], options)
    text = files["README.md"].decode()
    assert "By its users." in text
    assert text.count("<!-- results of ") == 4
    assert len([path for path in files if path.startswith(".eval_results/")]) == 2
    card = hub.files["dataset", "me/tiny-evaluation-samples"]["README.md"].decode()
    assert len(yaml.safe_load(card.split("---")[1])["configs"]) == 4


@pytest.mark.parametrize(
    ("refuse", "parts"),
    [
        (
            (403, "GatedRepo", "Access to me/tiny is restricted"),
            ["refuses", "403", "restricted", "may write there"],
        ),
        ((503, "", "down for a while"), ["answered 503"]),
    ],
)
def test_refusals_are_one_line_and_all_is_written(refuse, parts, run, hub, capsys):
    hub.refuse = refuse
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 2
    error = only_error(capsys)
    assert all(part in error for part in [*parts, "me/tiny", str(run / "hub")]), error
    assert (run / "hub" / "samples" / VARIANT / "samples.parquet").is_file()
    assert (run / "hub" / "model" / ".eval_results" / f"{VARIANT}.yaml").is_file()
    hub.refuse = None
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 0


def test_an_unreachable_hub_is_one_line_and_all_is_written(run, hub, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 2
    error = only_error(capsys)
    assert "http://127.0.0.1:9 cannot be reached" in error
    assert (run / "hub" / "model" / "README.md").is_file()
    assert not hub.requests
