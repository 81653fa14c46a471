"""Publish the kernel on the Kernel Hub: python kernels/publish.py me/shaped-kernels

The package is pure Python, so its build is a copy for each backend, which needs neither Nix nor
kernel-builder. The card goes to `main`. The build goes to the branch of its version, `v1`, from
which `get_kernel("me/shaped-kernels", version=1)` loads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

SOURCE = Path(__file__).resolve().parent
GENERAL = tomllib.loads((SOURCE / "build.toml").read_text(encoding="utf-8"))["general"]


def build(folder: Path) -> None:
    """Build as kernel-builder does for pure Python, in `folder`/build.

    The result is a flat copy for each backend, with its metadata.
    """
    module = GENERAL["name"].replace("-", "_")
    package = SOURCE / "torch-ext" / module
    sources = b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))
    for backend in GENERAL["backends"]:
        variant = folder / "build" / f"torch-{backend}"
        shutil.copytree(package, variant, ignore=shutil.ignore_patterns("__pycache__"))
        identity = f"_{module}_{backend}_{hashlib.sha1(sources).hexdigest()[:7]}"
        metadata = {name: GENERAL[name] for name in ("name", "version", "license")}
        metadata |= {"id": identity, "python-depends": [], "backend": {"type": backend}}
        (variant / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def publish(repository: str) -> str:
    """Push card and build, and return the address of the commit.

    Raises:
        Exception: whatever the Hub's client raises (`hub_errors`).
    """
    api, version = HfApi(library_name="shaped-trl"), f"v{GENERAL['version']}"
    card = (
        (SOURCE / "CARD.md").read_text(encoding="utf-8").replace("OWNER/shaped-kernels", repository)
    )
    api.create_repo(repository, repo_type="kernel", exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        message = f"{GENERAL['name']} {version}"
        kind = {
            "repo_id": repository,
            "repo_type": "kernel",
            "folder_path": folder,
            "commit_message": message,
        }
        api.upload_folder(**kind, allow_patterns="README.md")
        api.create_branch(repository, repo_type="kernel", branch=version, exist_ok=True)
        return str(
            api.upload_folder(**kind, revision=version, delete_patterns="build/**").commit_url
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", help="such as me/shaped-kernels")
    repository = parser.parse_args(argv).repository
    try:
        print(publish(repository))
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        print(f"{repository}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
