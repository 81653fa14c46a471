"""The Dockerfile that grades a run: what it installs is enough, and what it copies exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from places import ROOT
from shaped_eval.records import Problem, Sample, append_jsonl, read_jsonl

GRADED = [
    ("math", r"\frac{1}{2}", r"\boxed{0.5}"),
    ("gsm8k", "5", "#### 5"),
    ("choice", "A", "The answer is A."),
    ("exact_match", "5", "5"),
    ("text", "five", "five"),
]


def installed() -> list[str]:
    """The distributions that the image gets, with what they need."""
    lines = (ROOT / "requirements-grade.txt").read_text().splitlines()
    waiting = [line for line in lines if line and not line.startswith("#")]
    names: list[str] = []
    while waiting:
        requirement = waiting.pop()
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" in requirement or name in names:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # one for another Python
            waiting += metadata.requires(name) or []
            names.append(name)
    return names


def linked(folder: Path) -> Path:
    """A folder of packages with those distributions alone."""
    folder.mkdir()
    for name in installed():
        for file in metadata.files(name) or []:
            top = folder / file.parts[0]
            if ".." not in file.parts and not top.exists():
                top.symlink_to(
                    Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0]
                )
    return folder


def test_what_the_image_installs_is_enough_to_grade(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"settings": {"n": 1}}))
    for index, (grader, gold, completion) in enumerate(GRADED):
        key = f"own/{index}"
        append_jsonl(run / "problems.jsonl", [Problem(key, "own", "?", gold, grader)])
        append_jsonl(run / "samples.jsonl", [Sample(key, 0, completion)])
    packages = [linked(tmp_path / "packages"), ROOT, ROOT / "eval_suite"]
    program = (
        "import importlib.util, sys\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "from shaped_trl.cli import main\n"
        f"sys.exit(main(['grade', {str(run)!r}, '--num_workers', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["problem_id"]: row["status"] for row in read_jsonl(run / "verdicts.jsonl")}
    assert rows == {f"own/{index}": "pass" for index in range(len(GRADED))}


def test_the_dockerfile_copies_what_the_wheel_is_made_of(tmp_path):
    text = (ROOT / "Dockerfile").read_text()
    copied = {
        source for line in re.findall(r"^COPY (.+)$", text, re.M) for source in line.split()[:-1]
    }
    seen = set((ROOT / ".dockerignore").read_text().replace("!", "").split())
    assert copied <= seen  # the others are not sent to the builder
    for source in copied:
        (tmp_path / source).symlink_to(ROOT / source)
    wheels = [built_wheel(folder, tmp_path / "dist") for folder in (ROOT, tmp_path)]
    assert wheels[0] == wheels[1]
    assert re.search(r"^FROM \S+@sha256:[0-9a-f]{64}$", text, re.M)
    assert re.search(r"^USER [1-9]\d*$", text, re.M)


def built_wheel(source: Path, folder: Path) -> dict[str, bytes]:
    """The files of the wheel that is built from a folder."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
