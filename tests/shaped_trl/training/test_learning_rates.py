"""The paper's schedules of the learning rate."""

import pytest
from scheduled_tiny import arguments, log, trainer

PAPER = {
    "learning_rate": 3e-4,
    "lr_scheduler_type": "warmup_stable_decay",
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}
PRETRAIN = PAPER | {
    "max_steps": 31_250,
    "warmup_steps": 2000,
    "lr_scheduler_kwargs": {"num_decay_steps": 0},
}
MIDTRAIN = PAPER | {
    "max_steps": 6250,
    "lr_scheduler_kwargs": {"num_decay_steps": 6250, "min_lr_ratio": 0.1},
}


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (PRETRAIN, {0: 0, 1000: 1.5e-4, 2000: 3e-4, 20_000: 3e-4, 31_249: 3e-4}),
        (MIDTRAIN, {0: 3e-4, 3125: 1.65e-4, 6250: 3e-5}),
        (
            MIDTRAIN | {"lr_scheduler_kwargs": '{"num_decay_steps": 6250, "min_lr_ratio": 0.1}'},
            {6250: 3e-5},
        ),
    ],
    ids=["pretrain", "midtrain", "command line"],
)
def test_learning_rate_of_the_paper(tmp_path, settings, rates):
    """The rate after a number of updates, and the decay of AdamW on the matrices alone."""
    one = trainer(arguments(tmp_path, **settings))
    optimizer = one.create_optimizer()
    (factor, _) = one.create_scheduler(settings["max_steps"]).lr_lambdas
    for step, rate in rates.items():
        assert 3e-4 * factor(step) == pytest.approx(rate, rel=1e-12)
    assert one.args.max_grad_norm == 1.0
    decayed, plain = ({p.ndim for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert (decayed, plain) == ({2}, {1})


@pytest.mark.slow
def test_a_longer_run_moves_the_decay(tmp_path):
    """Resumed with more steps, the stable phase goes on and the decay comes at the new end."""
    settings = {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 4, "decay_type": "linear", "min_lr_ratio": 0.2},
        "learning_rate": 1.0,
        "warmup_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    trainer(arguments(tmp_path, max_steps=8, **settings)).train()
    short = log(tmp_path, "learning_rate")
    trainer(arguments(tmp_path, max_steps=10, **settings)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    assert [rate for (rate,) in short] == pytest.approx([0.2, 0.6, 1, 1, 1, 0.8, 0.6, 0.4])
    rates = [rate for (rate,) in log(tmp_path, "learning_rate")]
    assert rates == pytest.approx([0.2, 0.6, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4])
