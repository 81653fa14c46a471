"""Rows that `shaped-trl train` cannot train on are refused in one line."""

import json

import pytest
from shaped_eval.errors import UserError

from shaped_trl.data.corpora import CorpusArguments, training_rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "none of which can be trained on"),
        ({"prompt": "a", "gold": "b"}, "a prompt without a completion"),
        ({"prompt": "a", "text": "b"}, "a prompt without a completion"),
    ],
)
def test_columns_that_are_no_training_row(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message) as error:
        training_rows(CorpusArguments(dataset_name=str(path)), "train")
    assert "\n" not in str(error.value)


def test_a_template_makes_a_row_of_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "gold": "2"}) + "\n")
    arguments = CorpusArguments(dataset_name=str(path), text_template="{prompt}{gold}")
    assert training_rows(arguments, "train")[:] == {"text": ["1+1=2"]}
