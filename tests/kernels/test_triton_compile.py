"""All configurations compile for sm_80, sm_90 and sm_100 without a GPU, and do not spill registers."""

import json
import os
import subprocess
import sys

import pytest
from places import HELPERS

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

SCRIPT = HELPERS / "compile_kernels.py"
EVEN, ODD = 151_936, 50_257  # vocabularies; the first one is a multiple of 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "architecture", "vocabularies"),
    [
        ("bfloat16", 90, [EVEN, ODD]),
        ("float16", 80, [ODD]),
        ("float32", 90, [EVEN]),
        ("bfloat16", 100, [ODD]),
    ],
)
def test_no_configuration_spills_or_takes_more_registers_than_there_are(
    dtype, architecture, vocabularies, tmp_path
):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(SCRIPT), dtype, *map(str, [architecture, *vocabularies])]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(rows) == len(vocabularies) * (24 + 4 + len({dtype, "float32"}))
    for row in rows:
        print(row)
        assert row["spills"] <= row["known"], row
        assert row["registers"] <= row["limit"], row
