"""A shaped model gives the same under every engine in two processes as in one process.

The rows are the same, in two accumulated micro-batches. Under data parallelism each process has
half of them, and one process no target in the second micro-batch. Where an engine shards the head,
it has 32 and 31 of the 63 tokens.
"""

import importlib.util

import pytest
import sharded_training
import torch
from processes import built_once, results_in, run_processes
from sharded_training import PROCESSES, RUNS

pytestmark = pytest.mark.distributed

TRAINERS = [run for run in RUNS if run[0].startswith("trainer")]
# The norms of Qwen3 compute in float32 in a float64 model, and tensor parallelism changes the order
# of the sums before them.
TOLERANCES = {"tp": 1e-6, "zero3": 1e-6, "trainer": 1e-6}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of all runs in each process, from one start, since starting them takes long."""

    def build(folder):
        for tied in (False, True):
            sharded_training.make_model(tied).save_pretrained(
                folder / ("tied" if tied else "untied")
            )
        run_processes(sharded_training.main, PROCESSES, folder, str(folder))

    return results_in(built_once(tmp_path_factory, "sharded_training", build), PROCESSES)


def name_of(run: tuple[str, bool]) -> str:
    return f"{run[0]}-{'tied' if run[1] else 'untied'}"


def one_process(engine: str, tied: bool) -> dict[str, torch.Tensor]:
    model = sharded_training.shaped(sharded_training.make_model(tied))
    if engine == "fsdp_modules_to_save":
        model = sharded_training.with_adapters(model)
    return sharded_training.train(model, sharded_training.micro_batches())


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in RUNS if run not in TRAINERS], ids=name_of)
def test_loss_metrics_and_gradients_are_those_of_one_process(results, run):
    engine, tied = run
    if engine == "zero3" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    truth = one_process(engine, tied)
    tolerance = TOLERANCES.get(engine.split("_")[0], 1e-12)
    for rank in range(PROCESSES):
        ours = results[rank][run]
        assert ours.keys() == truth.keys()
        for name, value in truth.items():
            if engine.startswith("tp") and name.endswith(("q_norm.weight", "k_norm.weight")):
                # transformers 5.23 sums these over processes once per micro-batch, including what
                # has been accumulated. It does the same with its own loss.
                continue
            error = f"{name} differs: {{}}".format
            value = value.to(ours[name].dtype)
            torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance, msg=error)


@pytest.mark.slow
@pytest.mark.parametrize("run", TRAINERS, ids=name_of)
def test_a_trainer_logs_and_trains_as_in_one_process(results, run):
    engine, tied = run
    accumulation = {"gradient_accumulation_steps": 1} if engine == "trainer_tp" else {}
    truth = sharded_training.by_trainer(
        sharded_training.make_model(tied), sharded_training.ROWS, **accumulation
    )
    untrained = sharded_training.make_model(tied).get_output_embeddings().weight
    trained = truth["model.embed_tokens.weight" if tied else "lm_head.weight"]
    assert (trained - untrained).abs().max() > 1e-3
    for rank in range(PROCESSES):
        ours = results[rank][run]
        assert ours.keys() == truth.keys()
        for name, value in truth.items():
            if isinstance(value, float):
                assert ours[name] == pytest.approx(value, abs=1e-6), name
            else:
                error = f"{name} differs: {{}}".format
                torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9, msg=error)
