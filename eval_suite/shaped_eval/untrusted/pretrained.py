"""Reads other people's models; their Python code runs only if the user allows it.

The user is never asked on the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError


def check_model_folder(name: str, field: str = "model") -> None:
    """Refuse a name that is written like a path and does not lead to a saved model.

    Raises:
        UserError: the name begins with a dot, a slash or a tilde, or has two slashes, and there is
            no config.json.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not (Path(name).expanduser() / "config.json").is_file():
        raise UserError(
            f"{field}={name!r} does not exist, or has no config.json: give a saved model's folder "
            "or a model's id on the Hub"
        )


def read_pretrained(
    auto_class: Any,
    name: str,
    field: str = "model",
    *,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Call `auto_class.from_pretrained(name, **options)`: a configuration, a tokenizer, or weights.

    Args:
        auto_class: a class of transformers.
        name: a folder, or an id on the Hub.
        field: the option whose value is `name`, for errors.
        trust_remote_code: run the Python code in the repository (its ``auto_map``).

    Raises:
        UserError: `name` exists neither here nor on the Hub, or needs code of its own that may not
            run.
    """
    try:
        return auto_class.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError, ImportError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise needs_code(name, field) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{field}={name!r} cannot be read by {auto_class.__name__}, either as a folder or "
            f"from the Hub ({reason}): check the spelling, the folder's files, the network and "
            "the access rights"
        ) from error


def needs_code(name: str, field: str) -> UserError:
    """The error for a model that cannot be loaded without Python code from its repository."""
    return UserError(
        f"{field}={name!r} needs Python code from its own repository (auto_map), which is not run "
        "by default: read that code, and add --trust_remote_code true if you trust it"
    )
