"""The benchmark of the fused loss: its rows, its refusal to time a wrong loss, and its aims."""

import csv
import os
import subprocess
import sys

import pytest
from places import ROOT
from shaped_kernels import shaped_linear_loss

FOLDER = ROOT / "kernels" / "benchmarks"
TOY = ["--device", "cpu", "--sizes", "40x16x300", "--seconds", "0.05"]


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module that can import its neighbours."""
    monkeypatch.syspath_prepend(FOLDER)
    import linear_loss

    return linear_loss


@pytest.mark.slow
def test_a_run_appends_rows_with_times_ratios_errors_and_provenance(tmp_path):
    out, plot = tmp_path / "rows.csv", tmp_path / "plot.png"
    command = [
        sys.executable,
        FOLDER / "linear_loss.py",
        *TOY,
        "--variants",
        "ours cross-entropy",
        "floor",
    ]
    command += ["--out", out, "--plot", plot, "--commit", "abc1234"]
    # With tensors this small, a second thread only costs time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert (
        "40x16x300: time of ours cross-entropy ≤ 1.1 × floor: 3 matmuls and a pass"
        in finished.stdout
    )
    rows = {
        row["variant"]: row for row in csv.DictReader(out.read_text(encoding="utf-8").splitlines())
    }
    assert list(rows) == [
        "ours cross-entropy",
        "floor: 3 matmuls, our chunks",
        "floor: 3 matmuls, one chunk",
        "floor: 3 matmuls and a pass",
    ]
    ours = rows["ours cross-entropy"]
    assert 0 < float(ours["p20_ms"]) <= float(ours["median_ms"]) <= float(ours["p80_ms"])
    assert int(ours["calls"]) >= int(ours["rounds"]) == 10
    assert (
        float(ours["floor_ratio_low"])
        <= float(ours["floor_ratio"])
        <= float(ours["floor_ratio_high"])
    )
    assert ours["base"] == "ours cross-entropy"
    assert float(ours["base_ratio"]) == 1
    assert 0 < float(ours["error_ratio"]) <= 3
    assert float(ours["peak_mb"]) >= 0
    assert (ours["dtype"], ours["sums"], ours["commit"]) == ("float32", "float32", "abc1234")
    assert ours["command"].endswith("--seconds 0.05 --variants 'ours cross-entropy' floor")
    assert rows["floor: 3 matmuls and a pass"]["floor_ratio"] == "1.000"
    assert plot.stat().st_size > 1000


def test_the_committed_rows_have_the_columns_that_are_written(benchmark):
    benchmark.require_columns(FOLDER / "results.csv")


def test_rows_are_not_appended_to_a_file_with_other_columns(benchmark, tmp_path):
    out = tmp_path / "rows.csv"
    out.write_text("size,variant\n")
    with pytest.raises(SystemExit, match="columns"):
        benchmark.main([*TOY, "--out", str(out)])


def off_by_a_little(part: str):
    """`shaped_linear_loss` with an error of a thousandth in one part, except in the reference."""

    def wrong_loss(*inputs, impl: str, **settings):
        output = shaped_linear_loss(*inputs, impl=impl, **settings)
        if impl == "reference":
            return output
        if part == "metrics":
            return (
                output
                if output.entropy is None
                else output._replace(entropy=1.001 * output.entropy)
            )
        loss = 1.001 * output.loss
        return output._replace(
            loss=loss if part == "loss" else loss - loss.detach() + output.loss.detach()
        )

    return wrong_loss


@pytest.mark.parametrize("part", ["loss", "gradient", "metrics"])
def test_a_wrong_loss_ends_the_run_before_anything_is_timed(benchmark, tmp_path, monkeypatch, part):
    import measure
    import peers

    for module in (measure, peers):
        monkeypatch.setattr(module, "shaped_linear_loss", off_by_a_little(part))
    monkeypatch.setattr(measure, "time_calls", lambda *_: pytest.fail("timed"))
    out = tmp_path / "rows.csv"
    with pytest.raises(SystemExit, match="nothing is timed") as raised:
        benchmark.main([*TOY, "--variants", "ours cross-entropy", "--out", str(out)])
    assert raised.value.code not in (0, None)
    assert not out.exists()


def test_an_absent_peer_is_left_out_with_a_line(benchmark, capsys):
    import peers
    import torch

    def absent(hidden, weight, targets):
        raise ModuleNotFoundError("No module named 'absent_peer'")

    ours = peers.all_variants(torch.float32)[0]
    variants = [peers.Variant("absent", absent, peers.CROSS_ENTROPY, "float32"), ours]
    errors = benchmark.check(variants, 16, 300, "cpu", torch.float32)
    assert ours.name in errors
    assert "absent" not in errors
    assert (
        "left out: absent: ModuleNotFoundError: No module named 'absent_peer'"
        in capsys.readouterr().out
    )


def test_a_second_floor_that_is_not_installed_is_left_out_by_name(benchmark, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    size = benchmark.Size(8192, 2560, 151_936)
    found = benchmark.choose("cuda", torch.bfloat16, ["floor", "SM90", "QuACK"], size)
    assert [variant.name for variant in found] == [
        "floor: 3 matmuls, our chunks",
        "floor: 3 matmuls, one chunk",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "left out: Liger SM90: cutlass is not installed",
        "left out: QuACK: quack is not installed",
        "left out: floor: 3 matmuls of QuACK: quack is not installed",
    ]


def test_what_no_gpu_has_measured_runs_only_if_it_is_asked_for(benchmark):
    import torch

    size = benchmark.Size(8192, 2560, 151_936)
    usual = benchmark.choose("cuda", torch.bfloat16, ["ours"], size)
    assert usual
    assert not any("trial" in variant.name for variant in usual)
    asked = benchmark.choose("cuda", torch.bfloat16, ["ours full", "trial"], size)
    assert sum("trial" in variant.name for variant in asked) == 5


@pytest.mark.parametrize("choice", [{"rows_like_hidden": True}, {"fp32_gradient": True}])
def test_a_trial_computes_the_same_loss(benchmark, choice):
    import measure
    import peers
    import torch

    inputs = measure.make_inputs(measure.Size(20, 8, 50), "cpu", torch.bfloat16)
    usual = measure.run(peers.ours(peers.FULL_SHAPE), inputs)
    trial = measure.run(peers.ours(peers.FULL_SHAPE, **choice), inputs)
    assert trial[2].dtype == (torch.float32 if "fp32_gradient" in choice else torch.bfloat16)
    for got, expected in zip(trial, usual, strict=True):
        torch.testing.assert_close(got.to(expected.dtype), expected)
    assert measure.run(peers.ours(peers.FULL_SHAPE), inputs)[2].dtype == torch.bfloat16


@pytest.mark.slow
def test_log_probabilities_are_measured_against_trls_head(benchmark, tmp_path):
    import log_probs

    out = tmp_path / "rows.csv"
    log_probs.main(["--sizes", "24x8x40", "--pairs", "2", "--out", str(out)])
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert [row["variant"] for row in rows] == list(log_probs.VARIANTS)
    assert rows[1]["ratio"] == "1.000"
    for row in rows:
        assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
        assert float(row["peak_mb"]) >= 0
        assert row["command"].endswith(f"--sizes 24x8x40 --pairs 2 --out {out}")


def test_wrong_log_probabilities_are_not_timed(benchmark, monkeypatch):
    import log_probs

    wrong = {"wrong": lambda *inputs: 1.001 * log_probs.ours(*inputs)}
    monkeypatch.setattr(log_probs, "VARIANTS", wrong)
    monkeypatch.setattr(log_probs, "cpu_seconds", lambda *_: pytest.fail("timed"))
    with pytest.raises(SystemExit, match="nothing is timed"):
        log_probs.main(["--sizes", "24x8x40", "--out", ""])


def made_up(name: str, rounds_ms: list[float], peak_mb: float | None, sums: str = "bfloat16"):
    import measure
    import peers

    variant = peers.Variant(name, peers.floor(), peers.CROSS_ENTROPY, sums)
    return measure.Result(
        variant, rounds_ms, dict(enumerate(rounds_ms)), peak_mb, 1.0, out_of_memory=not rounds_ms
    )


def test_aims_follow_the_numbers(benchmark):
    import measure

    size = measure.Size(8192, 2560, 151_936)
    limit_mb = (size.V * size.D * 2 + size.N * size.D * 2) / 2**20 + 1024
    results = [
        made_up("ours cross-entropy, bf16 sums", [30.0, 31.0, 32.0], limit_mb - 1),
        made_up("Liger C=16", [29.0, 30.0, 31.0], limit_mb),
        made_up("Liger C=1", [60.0, 61.0, 62.0], 900.0),
        made_up("ours full, metrics, bf16 sums", [28.0, 28.5], limit_mb + 1),
        made_up("floor: 3 matmuls, our chunks", [25.0, 25.0, 25.0], 1700.0),
        made_up("ours full", [30.0, 30.0, 30.0], 2000.0, "float32"),
        made_up("full logits, full shape", [], None, "one matmul"),
    ]
    lines = benchmark.aims(size, {result.variant.name: result for result in results}, "cuda")
    reached = {line.claim.removeprefix(f"{size}: "): line.reached for line in lines}
    assert reached["time of ours cross-entropy, bf16 sums ≤ 1.05 × Liger C=16"] is True
    assert reached["extra memory of Liger C=16 ≥ 1 × ours cross-entropy, bf16 sums"] is True
    assert reached["ours cross-entropy, bf16 sums ≥ 1.4 × faster than Liger C=1"] is True
    assert (
        reached["time of ours full, metrics, bf16 sums ≤ 1.15 × floor: 3 matmuls, our chunks"]
        is True
    )
    assert (
        reached[
            "time of ours full, metrics, bf16 sums ≤ 1.08 × floor: 3 matmuls, our chunks (stretch)"
        ]
        is False
    )
    assert (
        reached["extra memory of ours full, metrics, bf16 sums ≤ dW (bfloat16) + dX + 1 GiB"]
        is False
    )
    assert (
        reached["extra memory of ours cross-entropy, bf16 sums ≤ dW (bfloat16) + dX + 1 GiB"]
        is True
    )
    assert reached["ours full ≥ 4 × faster than full logits, full shape"] is None
    assert reached["time of ours beta ≤ 1.05 × Liger C=16, fp32 sums"] is None

    slow = made_up("ours cross-entropy, bf16 sums", [60.0, 62.0, 64.0], 5000.0)
    lines = benchmark.aims(size, {r.variant.name: r for r in [slow, *results[1:]]}, "cuda")
    about_slow = [line for line in lines if "ours cross-entropy, bf16 sums" in line.claim]
    assert [line.reached for line in about_slow] == [False, False, False, False]
    assert all(str(line).startswith("NOT REACHED") for line in about_slow)


def test_ratios_are_formed_within_rounds(benchmark):
    import measure

    slow_machine_in_round_1 = made_up("a", [1.0, 10.0, 1.1], None)
    other = made_up("b", [2.0, 20.0, 2.2], None)
    assert measure.time_ratio(slow_machine_in_round_1, other) == (0.5, 0.5, 0.5)
    assert measure.time_ratio(other._replace(rounds={1: 30.0}), slow_machine_in_round_1) == (
        3,
        3,
        3,
    )
    assert measure.time_ratio(other, slow_machine_in_round_1._replace(rounds={7: 1.0})) is None


def test_slow_calls_take_part_in_fewer_rounds(benchmark):
    import measure

    assert measure.share(25, seconds=3, rounds=12) == (10, 1)
    assert measure.share(400, seconds=3, rounds=12) == (1, 1)
    assert measure.share(1000, seconds=3, rounds=12) == (1, 2)
    assert measure.share(60_000, seconds=3, rounds=12) == (1, 4)
