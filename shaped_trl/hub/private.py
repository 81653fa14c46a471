"""Finding the paths of this machine in a run's texts, and removing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from shaped_trl.recipes import RESOLVED, local_paths

ADAPTER = "adapter_config.json"


def private_names(output_dir: str | Path) -> dict[bytes, bytes]:
    """Paths that texts in a run's folder may contain -> their last part, longest path first.

    They are the paths in the recipe, that of an adapter's base model, and `output_dir` itself.
    """
    output_dir = Path(output_dir)
    settings: dict[str, Any] = {}
    if (output_dir / RESOLVED).is_file():
        settings = yaml.safe_load((output_dir / RESOLVED).read_text(encoding="utf-8")) or {}
    names = local_paths(
        {**settings, "here": str(output_dir.absolute()), "base": adapter_base(output_dir)}
    )
    names |= {str(Path(path).expanduser().resolve()): name for path, name in names.items()}
    found = {}
    for path in sorted(names, key=len, reverse=True):
        if path.strip("/").count("/"):  # a folder directly below the root could be any word
            found[json.dumps(path)[1:-1].encode()] = found[path.encode()] = names[path].encode()
    return found


def without_paths(content: bytes, names: dict[bytes, bytes]) -> bytes:
    """The text with each path replaced by its name."""
    for path, name in names.items():
        content = content.replace(path, name)
    return content


def adapter_base(folder: Path) -> str | None:
    """The base model of the adapter in a folder; None if there is no adapter."""
    if not (folder / ADAPTER).is_file():
        return None
    return json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
