"""Studies from the time when the product was the default form of β keep their meaning."""

from pathlib import Path

import pytest
import yaml
from shaped_eval.errors import UserError
from study_values import load, study_values

from shaped_trl import recipes
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.options import train_options
from shaped_trl.run_record import record
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.training.config import ShapedConfig

SCHEDULE = '{"beta": {"kind": "linear", "start": 0.0, "end": -0.25}}'
FINGERPRINT_WITHOUT_A_FORM = "65b13ffa2c09f2c2"


def resolved(folder: Path) -> Path:
    """A study.yaml as the first version left it in the folder of a study."""
    values = yaml.safe_load(load(folder, study_values(folder)).to_yaml())
    del values["version"], values["arms"]["precision"]["shape"]["positive"]
    (folder / "old/finished").mkdir(parents=True)
    (folder / "old/study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "old/study.yaml"


def test_a_resolved_study_without_a_version_is_the_products(tmp_path):
    path = resolved(tmp_path)
    assert load_study(path).arms["precision"].shape["positive"] == "product"
    assert load_study(path).arms["cross_entropy"].shape == {}
    # a hand-written study has today's default
    written = path.rename(tmp_path / "mine.yaml")
    assert load_study(written).arms["precision"].shape["positive"] == "exponent"


def test_a_study_names_the_form_when_it_is_resolved(tmp_path):
    values = study_values(tmp_path)
    values["arms"]["scheduled"] = {"args": {"pretrain": {"shape_schedule": SCHEDULE}}}
    study = load(tmp_path, values)
    text = yaml.safe_load(study.to_yaml())
    assert text["version"] == 2
    assert text["arms"]["precision"]["shape"]["positive"] == "exponent"
    assert text["arms"]["scheduled"]["shape"] == {"positive": "exponent"}
    assert list(study.named_by_form().arms) == [
        "cross_entropy",
        "precision_exponent",
        "scheduled_exponent",
    ]


def test_a_beta_of_one_regime_has_its_form(tmp_path):
    values = study_values(tmp_path)
    values["regimes"] = {"P": {"running_sums": {}}, "D": {"running_sums": {}}}
    values.pop("prepare", None)
    tail = {"shape": {"lambda_tail": -0.1}, "shape_in": {"P": {"beta": -0.25}}}
    values["arms"]["tail"] = tail
    study = load(tmp_path, values)
    forms = {view.regime: view.arms["tail"].form_of_beta for view in study.each_regime()}
    assert forms == {"P": "exponent", "D": None}
    argv = {run.key: run.argv for run in plan(study) if run.arm == "tail"}
    shaped = [each for key, each in argv.items() if key.startswith("P/") and "--beta" in each]
    assert shaped
    assert all(each[each.index("--positive") + 1] == "exponent" for each in shaped)
    assert not any("--beta" in each for key, each in argv.items() if key.startswith("D/"))


def test_a_study_of_a_later_version_is_refused(tmp_path):
    path = resolved(tmp_path)
    text = path.read_text()
    for version in ("3", "[1]", "true"):
        path.write_text(f"version: {version}\n{text}")
        with pytest.raises(UserError, match="is unknown here; this shaped-trl reads 1, 2"):
            load_study(path)


@pytest.mark.parametrize(("shape", "same"), [({}, False), ({"positive": "product"}, True)])
def test_the_products_runs_keep_the_fingerprints_of_before_it_had_to_be_named(
    tmp_path, shape, same
):
    # the fingerprint of the command line without --positive, which meant the product
    values = study_values(tmp_path)
    values["arms"]["precision"]["shape"] |= shape
    run = next(run for run in plan(load(tmp_path, values)) if run.key == "precision/seed0/pretrain")
    assert ("product" in run.argv) is same
    assert (run.fingerprint == FINGERPRINT_WITHOUT_A_FORM) is same


def test_a_recipe_that_leaves_the_form_open_is_not_what_it_was_under_another_default(tmp_path):
    values = study_values(tmp_path)
    values["stages"]["pretrain"]["shaped"] = False
    values["arms"] = {"cross_entropy": {}}
    path = tmp_path / "pretrain.yaml"
    text = path.read_text()

    def found(more: str) -> str:
        path.write_text(text + more)
        return next(
            run for run in plan(load(tmp_path, values)) if run.stage == "pretrain"
        ).fingerprint

    assert len({found(more) for more in ("", "beta: -0.25", "beta: -0.25\npositive: product")}) == 3
    assert found("shape: precision") != found("shape: tail_penalty")


def test_a_resolved_training_without_a_form_is_the_products(tmp_path):
    path = tmp_path / recipes.RESOLVED
    parser = recipes.Parser("train", [CorpusArguments, ShapedConfig])
    for text, form in (
        ("beta: -0.25", "product"),
        ("{}", None),
        ("beta: 0.5\npositive: exponent", "exponent"),
    ):
        path.write_text(text)
        assert parser.settings(str(path), []).get("positive") == form
    path.write_text(f"shape_schedule: '{SCHEDULE}'")
    assert parser.settings(str(path), [])["positive"] == "product"
    path.rename(tmp_path / "mine.yaml")
    assert "positive" not in parser.settings(str(tmp_path / "mine.yaml"), [])


def test_a_training_is_not_continued_in_another_form(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / recipes.RESOLVED).write_text("beta: -0.25")
    with pytest.raises(UserError, match="positive='product', not 'exponent'"):
        record({"beta": -0.25, "positive": "exponent"}, tmp_path, train_options())
    record({"beta": -0.25, "positive": "product"}, tmp_path, train_options())
    (tmp_path / recipes.RESOLVED).write_text("lambda_tail: -0.1")  # without β there is no form
    record({"lambda_tail": -0.1, "positive": "exponent"}, tmp_path, train_options())
