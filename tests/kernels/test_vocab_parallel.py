"""A head whose rows are spread over processes gives what the whole head gives in one."""

import pytest
import torch
from processes import run_processes
from shaped_kernels import METRICS, shaped_linear_loss
from sharded_head import CASES, PROCESSES, D, N, compute, fail_in_the_last, main

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of all cases in each process, from one start, since starting them takes long."""
    return run_processes(main, PROCESSES, tmp_path_factory.mktemp("processes"))


def assert_close(ours: dict, truth: dict, tolerance: float) -> None:
    assert ours.keys() == truth.keys()
    for name, value in truth.items():
        error = f"{name} differs: {{}}".format
        torch.testing.assert_close(
            ours[name], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=error
        )


def names(*dtypes: torch.dtype) -> list[str]:
    return [name for name, case in CASES.items() if case.dtype in dtypes]


@pytest.mark.slow
@pytest.mark.parametrize("name", names(torch.float64, torch.float32))
def test_loss_metrics_and_gradients_are_those_of_one_process(results, name):
    truth = compute(CASES[name], "chunked")
    for rank in range(PROCESSES):
        assert_close(
            results[rank][name], truth, 1e-12 if CASES[name].dtype == torch.float64 else 1e-6
        )
        # Exactly equal: if processes decided differently, they would wait for each other.
        for value in ("loss", *results[0][name]):
            torch.testing.assert_close(
                results[rank][name][value], results[0][name][value], rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.broken])
def test_what_is_no_distribution_in_one_shard_has_no_number_in_any(results, name):
    nll = compute(CASES[name], "reference")["nll"]
    for rank in range(PROCESSES):
        for value in METRICS:
            assert torch.equal(results[rank][name][value].isnan(), nll.isnan()), value
    assert nll.isnan().any() != (name == "a row of NaN, ignored")


@pytest.mark.parametrize("name", names(torch.bfloat16))
def test_half_precision_is_as_exact_as_in_one_process(results, name):
    one_process, ours = compute(CASES[name], "chunked"), results[0][name]
    for value, truth in compute(CASES[name], "reference", dtype=torch.float64).items():
        error, allowed = ((x[value].double() - truth).norm() for x in (ours, one_process))
        assert error <= 2 * allowed + 1e-6 * truth.norm(), value


@pytest.mark.parametrize("name", ["reference", "by columns", "replicated", "replicated bias"])
def test_other_implementations_and_placements_gather(results, name):
    truth = compute(CASES["product"], "chunked")
    for rank in range(PROCESSES):
        assert_close(results[rank][name], truth, 1e-12)


def test_a_chunk_costs_four_collectives_and_the_head_is_never_sent(results):
    # The candidates for the head set, maxima, sums and the hidden states' gradient. With is_top1,
    # also who is first among equals. The target's rank is one more sum.
    K = CASES["product"].shape.top_k
    candidates, maxima, sums, gradient = (PROCESSES + 1) * N * K, 2 * N, 4 * N, N * D
    for rank in range(PROCESSES):
        calls = results[rank]["traffic"]
        assert [size for _, size in calls] == [candidates, maxima, sums, gradient]
        assert [name for name, _ in calls] == ["allgather_", *3 * ["allreduce_"]]
        assert [size for _, size in results[rank]["traffic of is_top1"]] == [
            candidates,
            maxima,
            N,
            sums,
            gradient,
        ]
        ranked = [size for _, size in results[rank]["traffic of target_rank"]]
        assert ranked == [candidates, maxima, sums + N, gradient]


def test_what_cannot_be_right_is_refused_in_every_process(results):
    for rank in range(PROCESSES):
        outside, plain_bias, plain_weight = results[rank]["errors"]
        assert "29" in outside
        assert "vocabulary [0, 29)" in outside
        assert "bias is not" in plain_bias
        assert "weight is not" in plain_weight


def test_hidden_states_may_be_replicated_dtensors(results):
    hidden = torch.ones(N, D).requires_grad_()
    shaped_linear_loss(hidden, torch.eye(7, D), torch.arange(N) % 7).loss.backward()
    for rank in range(PROCESSES):
        torch.testing.assert_close(results[rank]["gradient of a replicated hidden"], hidden.grad)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_test_at_once(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="only this one"):
        run_processes(fail_in_the_last, 2, tmp_path)
