"""`shaped-trl env`: a text for bug reports."""

import sys
from importlib import metadata

import pytest
import torch
from shaped_eval.grading.sandbox import confine, server

from shaped_trl.cli import main


def printed(capsys) -> list[str]:
    assert main(["env"]) == 0
    return capsys.readouterr().out.splitlines()


def test_it_names_versions_devices_and_protections(capsys):
    lines = printed(capsys)
    headings = [line for line in lines if line.startswith("#")]
    assert headings == ["### Versions", "### Devices", "### Sandbox for generated code"]
    assert all(line.startswith(("- ", "### ")) for line in lines if line)
    assert f"- torch: {metadata.version('torch')}" in lines
    assert f"- trl: {metadata.version('trl')}" in lines
    assert any(line.startswith("- vllm: ") for line in lines)
    if not torch.accelerator.is_available():
        assert "- accelerator: none" in lines


def test_it_names_a_protection_that_is_missing(monkeypatch, capsys):
    def refuse():
        raise server.SandboxUnavailable("generated code cannot be confined here")

    monkeypatch.setattr(confine, "missing_protections", lambda: ["Landlock is off"])
    monkeypatch.setattr(server, "SandboxServer", refuse)
    monkeypatch.delenv(server.ALLOW_WEAK_VARIABLE, raising=False)
    lines = printed(capsys)
    assert "- missing: Landlock is off" in lines
    assert any(line.startswith("- generated code is not run: ") for line in lines)
    assert not any("confinement" in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
def test_it_says_whether_a_process_could_be_confined(capsys):
    lines = printed(capsys)
    trials = [line for line in lines if "confinement of" in line or "is not run" in line]
    assert len(trials) == 1


def test_it_takes_no_arguments(capsys):
    assert main(["env", "more"]) == 2
    assert "more" in capsys.readouterr().err
