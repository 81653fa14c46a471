"""The picture of a run's log."""

import json

from scheduled_tiny import arguments, trainer
from transformers import TrainerState

from shaped_trl.training.log import LogPlotCallback
from shaped_trl.training.plots import log_panels, plot_log


def test_the_plot_has_what_was_logged():
    rows = [
        {"step": 1, "loss": 4.0, "nll": 4.1, "learning_rate": 0.1, "beta": 0.0},
        {"step": 2, "loss": None, "nll": 3.9, "learning_rate": 0.2, "beta": -0.25, "eval_nll": 4.5},
    ]
    panels = {panel.title: panel.curves for panel in log_panels(rows)}
    assert set(panels) == {"Loss", "Learning rate", "Reward shape"}
    assert panels["Loss"] == {
        "loss": [([1], [4.0])],
        "nll": [([1, 2], [4.1, 3.9])],
        "eval_nll": [([2], [4.5])],
    }
    assert panels["Reward shape"] == {"beta": [([1, 2], [0.0, -0.25])]}


def test_a_source_of_the_data_is_no_formula_in_the_plot(tmp_path):
    """matplotlib reads what stands between two dollar signs, and fails where it is none."""
    source = r"eval_nll_source_cost $\frac{$"
    rows = [{"step": step, "loss": 1.0, source: 1.0} for step in (1, 2)]
    (tmp_path / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_log(tmp_path / "train_log.jsonl")
    assert (tmp_path / "train_log.png").stat().st_size > 0
    assert source in {name for panel in log_panels(rows) for name in panel.curves}


def test_no_plot_without_a_log_and_no_run_ended_by_one(tmp_path, monkeypatch, caplog):
    plot_log(tmp_path / "train_log.jsonl")
    (tmp_path / "train_log.jsonl").touch()
    plot_log(tmp_path / "train_log.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["train_log.jsonl"]

    def full_disk(path):
        raise OSError("No space left on device")

    monkeypatch.setattr("shaped_trl.training.plots.plot_log", full_disk)
    one = trainer(arguments(tmp_path, max_steps=1))
    one.train()
    assert one.state.global_step == 1
    assert "No space left on device" in caplog.text


def test_saves_in_quick_succession_share_a_drawing(tmp_path, monkeypatch):
    now, drawn = 100.0, []

    def draw(path):
        nonlocal now
        drawn.append(now)
        now += 1

    monkeypatch.setattr("shaped_trl.training.plots.plot_log", draw)
    monkeypatch.setattr("shaped_trl.training.log.time.monotonic", lambda: now)
    callback, args = LogPlotCallback("train_log.jsonl"), arguments(tmp_path)
    for now in (100.0, 110.0, 150.9, 151.0):  # noqa: B007
        callback.on_save(args, TrainerState(), None)
    assert drawn == [100.0, 151.0]
    now = 160.0
    callback.on_train_end(args, TrainerState(), None)
    assert drawn == [100.0, 151.0, 160.0]
