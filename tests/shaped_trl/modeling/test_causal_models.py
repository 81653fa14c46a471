"""With the default shape, every served class of `AutoModelForCausalLM` has its own loss."""

from pathlib import Path

import pytest
import transformers
from causal_models import TOLERANCE, Result, compare, compare_all, model_classes, support_page

import shaped_trl.modeling

PAGE = Path(shaped_trl.modeling.__file__).with_name("README.md")
# Transforms in the head, softcaps and routers under other names, padding, a backbone that is not
# `base_model`.
FEW = (
    "Electra",
    "Inkling",
    "Inkling2",
    "JetMoe",
    "Llama4",
    "Mllama",
    "ModernBertDecoder",
    "RecurrentGemma",
    "xLSTM",
)

# Models that are built in unusual sizes.
pytestmark = pytest.mark.filterwarnings("ignore")


def assert_served(name: str, result: Result) -> None:
    assert result.served == "yes", (name, result)
    assert result.loss_error < TOLERANCE, (name, result)
    assert result.gradient_error < TOLERANCE, (name, result)


@pytest.mark.parametrize("name", FEW)
def test_loss_and_gradients_are_the_models_own(name):
    assert_served(name, compare(model_classes()[f"{name}ForCausalLM"]))


@pytest.mark.slow
def test_every_class_is_served_as_the_page_says():
    results = compare_all()
    for name, result in results.items():
        if result.served == "yes":
            assert_served(name, result)
    assert f"transformers {transformers.__version__})" in PAGE.read_text(), f"write {PAGE} anew"
    assert support_page(results) == PAGE.read_text(), f"write {PAGE} anew"
