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


@pytest.mark.parametrize("name", ["rows[1].jsonl", "rows*.jsonl", "rows?.jsonl", "a::rows.jsonl"])
def test_the_path_of_a_file_is_no_pattern(tmp_path, name):
    """`datasets` would read rows1.jsonl in place of rows[1].jsonl."""
    for each in (name, "rows1.jsonl"):
        (tmp_path / each).write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="rename it"):
        training_rows(CorpusArguments(dataset_name=str(tmp_path / name)), "train")


def test_a_template_makes_a_row_of_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "gold": "2"}) + "\n")
    arguments = CorpusArguments(dataset_name=str(path), text_template="{prompt}{gold}")
    assert training_rows(arguments, "train")[:] == {"text": ["1+1=2"]}
