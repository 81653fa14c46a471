import pytest
from rlvr_tiny import even_length, rlvr_arguments, rlvr_trainer, scripted_prompts
from shaped_eval.errors import UserError
from transformers import GPT2Config, Qwen3Config

from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.lengths import LengthSchedule, check_context


def test_a_length_holds_from_its_step_on():
    schedule = LengthSchedule.parse({700: 16384, 0: 8192})
    assert [schedule(step) for step in (0, 1, 699, 700, 701, 10**6)] == [8192] * 3 + [16384] * 3
    assert schedule.longest == 16384
    assert (
        LengthSchedule.parse("{0: 8192, 700: 16384}")
        == schedule
        == LengthSchedule.parse('{"0": 8192, "700": 16384}')
    )
    assert LengthSchedule.parse(schedule.as_dict()) == schedule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "must map"),
        ("16384", "must map"),
        ("{0: 5", "not YAML"),
        ({5: 16}, "no length for step 0"),
        ({0: 0}, "length 0"),
        ({0: 1.5}, "length 1.5"),
        ({0: 8, -3: 9}, "step -3"),
        ({0: 8, "x": 9}, "step 'x'"),
        ({0: True}, "length True"),
    ],
)
def test_other_schedules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LengthSchedule.parse(settings)


def test_the_configuration_plans_for_the_longest(tmp_path):
    args = RLVRConfig(
        str(tmp_path), use_cpu=True, completion_length_schedule="{0: 8, 4: 24, 9: 16}"
    )
    assert args.max_completion_length == 24
    assert args.completion_length_schedule == {0: 8, 4: 24, 9: 16}
    for name in ("max_new_tokens", "max_tokens"):
        with pytest.raises(ValueError, match=f"{name} in generation_kwargs exclude each other"):
            RLVRConfig(
                str(tmp_path),
                completion_length_schedule={0: 8},
                generation_kwargs={name: 9},
                use_cpu=True,
            )


def test_without_a_schedule_the_limit_is_that_of_trl(tmp_path):
    """`generation_kwargs` come last there."""
    given = {"max_completion_length": 8, "generation_kwargs": {"max_new_tokens": 3}, "max_steps": 1}
    args = rlvr_arguments(tmp_path, dynamic_sampling=False, **given)
    one = rlvr_trainer(args, even_length, scripted_prompts())
    one.train()
    assert one.state.log_history[0]["completions/max_length"] == 3


def test_what_does_not_fit_the_context_is_refused_or_warned_of(caplog):
    rotary = Qwen3Config(max_position_embeddings=64)
    check_context(60, 4, rotary)
    assert not caplog.text
    check_context(61, 4, rotary)  # extrapolates
    assert "max_position_embeddings=64" in caplog.text
    with pytest.raises(UserError, match="max_position_embeddings=64"):
        check_context(61, 4, GPT2Config(n_positions=64))
    with pytest.raises(UserError, match="raise it to 65"):
        check_context(61, 4, rotary, engine_limit=64)
    check_context(60, 4, rotary, engine_limit=64)
