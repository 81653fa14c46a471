"""Without dynamic sampling and a length schedule, RLVRTrainer is GRPOTrainer, to the last bit."""

import pytest
from processes import run_processes
from rlvr_tiny import parity

CASES = [(loss_type, lora) for loss_type in ("grpo", "dapo", "dr_grpo") for lora in (False, True)]
DEFAULT = ("dapo", True)  # in the default suite, and the others in the slow one


@pytest.mark.parametrize(
    ("loss_type", "lora"),
    [pytest.param(*case, marks=[] if case == DEFAULT else pytest.mark.slow) for case in CASES],
)
def test_twenty_steps_give_the_parameters_of_grpo(tmp_path, loss_type, lora):
    ((apart, moved),) = parity(str(tmp_path), [(loss_type, lora)])
    assert moved
    assert apart == 0


@pytest.mark.slow
@pytest.mark.distributed
def test_twenty_steps_on_two_processes_give_the_parameters_of_grpo(tmp_path):
    for found in run_processes(parity, 2, tmp_path, str(tmp_path), CASES):
        assert found == [(0.0, True)] * len(CASES)
