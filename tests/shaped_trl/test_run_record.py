"""A second run in a folder continues the first, or is refused."""

import pytest
import yaml
from shaped_eval.errors import UserError

from shaped_trl.launch import LaunchArguments
from shaped_trl.options import rlvr_options, train_options
from shaped_trl.recipes import LATER_FIELDS, expand_shape
from shaped_trl.run_record import may_change, record


def test_another_run_in_the_folder_is_refused(tmp_path):
    record({"beta": 0.5, "hub_mirror": "a"}, tmp_path, train_options())
    record({"beta": -0.25}, tmp_path, train_options())  # nothing has been trained yet
    (tmp_path / "checkpoint-1").mkdir()
    record({"beta": -0.25, "hub_mirror": "b"}, tmp_path, train_options())
    with pytest.raises(UserError, match=r"beta=-0.25, not 0.5"):
        record({"beta": 0.5}, tmp_path, train_options())
    assert yaml.safe_load((tmp_path / "resolved.yaml").read_text()) == {
        "beta": -0.25,
        "hub_mirror": "b",
    }


def test_json_that_is_written_in_another_way_is_the_same_setting(tmp_path):
    def record_kwargs(kwargs):
        record({"generation_kwargs": kwargs}, tmp_path, rlvr_options())

    record_kwargs('{"top_k": 5, "min_p": 0.1}')
    (tmp_path / "checkpoint-1").mkdir()
    record_kwargs('{"min_p":0.1,"top_k":5}')
    record_kwargs({"top_k": 5, "min_p": 0.1})
    for other in ('{"top_k": 6, "min_p": 0.1}', '{"top_k": 5}', "{top_k: 5}"):
        with pytest.raises(UserError, match="holds a run with generation_kwargs="):
            record_kwargs(other)


@pytest.mark.parametrize("name", ["threshold", "loss_temperature"])
def test_a_run_from_before_a_field_of_the_shape_continues_with_its_default(tmp_path, name):
    """A preset names all fields, and an older run does not name the later ones."""
    now = expand_shape({"shape": "precision"})
    before = {field: value for field, value in now.items() if field not in LATER_FIELDS}
    record(before, tmp_path, train_options())
    (tmp_path / "checkpoint-1").mkdir()
    record(now, tmp_path, train_options())
    record(before, tmp_path, train_options())
    with pytest.raises(UserError, match=f"{name}={LATER_FIELDS[name]}, not 0.5"):
        record(before | {name: 0.5}, tmp_path, train_options())


def test_a_run_may_be_divided_anew_but_not_its_steps(tmp_path):
    def record_division(settings, sequences, world):
        record(settings, tmp_path, train_options(), sequences=sequences, world=world)

    two = {"per_device_train_batch_size": 2, "num_processes": 2, "accelerate_config": "ddp"}
    record_division(two, 4, 2)
    (tmp_path / "checkpoint-1").mkdir()
    record_division({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, 4, 1)
    with pytest.raises(UserError, match="4 sequences a step on 1 processes, not 8 on 2"):
        record_division(two, 8, 2)
    # a rank other than 0 checks and writes nothing
    nine = {"per_device_train_batch_size": 9}
    record(nine, tmp_path, train_options(), sequences=4, rank=1)
    assert "per_device_train_batch_size: 1" in (tmp_path / "resolved.yaml").read_text()


def test_a_generation_batch_stays_as_large(tmp_path):
    """Half as many sequences at once need twice as many micro-batches of generation, too."""

    def record_division(size, accumulation, steps, completions):
        settings = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
            "steps_per_generation": steps,
        }
        record(settings, tmp_path, rlvr_options(), sequences=128, completions=completions)

    record_division(16, 8, 32, 512)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UserError, match=r"512 completions a generation batch .* not 256"):
        record_division(8, 16, 32, 256)
    record_division(8, 16, 64, 512)


def test_the_dtype_of_saved_weights_is_that_of_the_record(tmp_path):
    """It may change as long as nothing is saved for good."""
    record({"save_dtype": "float32"}, tmp_path, train_options())
    (tmp_path / "checkpoint-1").mkdir()
    record({"save_dtype": "auto"}, tmp_path, train_options())
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="save_dtype='auto', not 'bfloat16'"):
        record({"save_dtype": "bfloat16"}, tmp_path, train_options())


def test_secrets_are_not_recorded(tmp_path):
    record({"beta": 0.5, "hub_token": "hf_secret"}, tmp_path, train_options())
    assert "hf_secret" not in (tmp_path / "resolved.yaml").read_text()


def test_what_may_change_is_what_does_not_change_the_numbers():
    """The fields themselves say so; a few of each kind are named here."""
    train, rlvr = may_change(train_options()), may_change(rlvr_options())
    assert train >= {"loss_spike", "eval_benchmarks", "hub_mirror", "hub_license", "output_dir"}
    assert rlvr >= {"on_no_signal", "audit_threshold", "push_to_hub", "report_to"}
    assert train >= set(LaunchArguments.__dataclass_fields__)
    decisive = {"beta", "shape_schedule", "seed", "learning_rate", "dataset_name", "mixture"}
    assert not (train | rlvr) & {*decisive, "num_generations", "grader", "dynamic_sampling"}
