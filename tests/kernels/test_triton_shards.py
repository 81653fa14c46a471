"""A head whose rows are spread over processes, with the Triton row step in each of them."""

import dataclasses

import pytest
import torch
from processes import run_processes
from sharded_head import CASES, OF_TRITON, PROCESSES, compute, with_triton

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    # The interpreter computes with numpy, which warns of infinities that the arithmetic handles.
    pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_processes(with_triton, PROCESSES, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", OF_TRITON)
def test_loss_metrics_and_gradients_are_those_of_one_process(results, name):
    """The inputs are rounded to fp32, and the truth is computed from them in one process."""
    case = dataclasses.replace(CASES[name], dtype=torch.float32)
    truth = compute(case, "chunked", dtype=torch.float64)
    for rank in range(PROCESSES):
        assert results[rank][name].keys() == truth.keys()
        for value, expected in truth.items():
            torch.testing.assert_close(
                results[rank][name][value].double(),
                expected.double(),
                rtol=2e-5,
                atol=2e-6,
                equal_nan=True,
                msg=f"{value} differs: {{}}".format,
            )
