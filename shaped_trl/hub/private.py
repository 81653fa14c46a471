"""Finding the paths of this machine in a run's texts, and removing them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from shaped_trl.recipes import RESOLVED
from shaped_trl.run_record import PUSHING, SECRET

ADAPTER = "adapter_config.json"
# A published recipe leaves these options out: they name places of one machine or one account.
PRIVATE = (
    *("output_dir", "hub_mirror", "logging_dir", "resume_from_checkpoint", *PUSHING, *SECRET),
    *("main_process_ip", "main_process_port", "vllm_server_base_url", "vllm_server_host"),
)
# In options of options, these name credentials.
CREDENTIALS = (*SECRET, "token", "use_auth_token", "hf_token", "api_key", "password")
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")  # in an address
KEY = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b|\bsk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{32,}")
# The values of these options are texts, never paths, whatever they begin with.
TEXTS = re.compile(r".*(_template|_pattern|_prompt)$")


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


def public_recipe(text: str) -> str:
    """A `resolved.yaml` for others: without this machine's folders, local files by name only."""
    settings = _opened(yaml.safe_load(text) or {})
    names = local_paths(settings)
    shown = {
        name: _renamed(value, names) for name, value in settings.items() if name not in PRIVATE
    }
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def local_paths(settings: dict[str, Any]) -> dict[str, str]:
    """Each path of this machine among the settings, and the name of its last part."""
    return {value: Path(value).name for value in _strings(_opened(settings)) if _is_local(value)}


def _opened(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with nested options that the command line gave as text parsed."""
    opened = dict(settings)
    for name, value in settings.items():
        if (
            isinstance(value, str)
            and value.lstrip().startswith(("[", "{"))
            and not TEXTS.match(name)
        ):
            try:
                parsed = yaml.safe_load(value)
            except yaml.YAMLError:
                continue
            opened[name] = parsed if isinstance(parsed, dict | list) else value
    return opened


def _is_local(value: str) -> bool:
    if "/" not in value.rstrip("/") or "\n" in value or "://" in value:
        return False
    return value.startswith(("/", "~", "./", "../")) or os.path.exists(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if "," in value:  # benchmarks are given as one text, names and files of one's own
            yield from value.split(",")
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not TEXTS.match(str(name)):
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        parts = value.split(",")
        text = names.get(value) or ",".join(names.get(part, part) for part in parts)
        return KEY.sub("…", LOGIN.sub("", text))
    if isinstance(value, dict):
        return {
            name: _renamed(inner, names) for name, inner in value.items() if name not in CREDENTIALS
        }
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value
