"""Reads other people's models; their Python code runs only if the user allows it.

The user is never asked on the terminal. The folder of a LoRA adapter is a model, too: that of the
base model which its adapter_config.json names, with the adapter merged into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.provenance import ADAPTER_FILES, folder_fingerprint
from shaped_eval.untrusted.rows import read_object
from shaped_eval.untrusted.weights import check_weights

ADAPTER_CONFIG = "adapter_config.json"


def check_model_folder(name: str, field: str = "model") -> None:
    """Refuse a name that is written like a path and does not lead to a saved model.

    Raises:
        UserError: the name begins with a dot, a slash or a tilde, or has two slashes, and there is
            no config.json, nor the adapter_config.json of a LoRA adapter.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    is_model = (Path(name).expanduser() / "config.json").is_file() or is_adapter(name)
    if looks_local and not is_model:
        raise UserError(
            f"{field}={name!r} does not exist, or has no config.json: give a saved model's folder, "
            "that of a LoRA adapter, or a model's id on the Hub"
        )


def is_adapter(name: str | Path) -> bool:
    """Whether `name` is the folder of an adapter, and not of a whole model."""
    folder = Path(name).expanduser()
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def refuse_adapter(name: str, field: str, reason: str) -> None:
    """Raise UserError if `name` is the folder of an adapter, which `reason` does not go with."""
    if is_adapter(name):
        raise UserError(
            f"{field}={name!r} is an adapter, which {reason} does not support: `shaped-trl merge "
            "ADAPTER --out DIR` makes a whole model of it"
        )


def base_of(adapter: str | Path, field: str = "model") -> str:
    """The base model that an adapter's configuration names: a folder or an id on the Hub.

    Raises:
        UserError: the configuration is damaged, is not that of a LoRA adapter, names a module to be
            imported (megatron), or names a folder that does not hold a model.
    """
    config = read_object(Path(adapter).expanduser() / ADAPTER_CONFIG)
    base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    named = f"{field}={str(adapter)!r}: {ADAPTER_CONFIG} has"
    if kind != "LORA" or config.get("megatron_config"):
        raise UserError(
            f"{named} peft_type={kind!r}"
            f"{' and a megatron_config' if config.get('megatron_config') else ''}; only LoRA "
            "adapters of transformers models are loaded"
        )
    if not isinstance(base, str) or not base:
        raise UserError(f"{named} base_model_name_or_path={base!r}: name the base model there")
    check_model_folder(base, f"{field}={str(adapter)!r}: base_model_name_or_path")
    return base


def model_fingerprint(folder: str | Path) -> str:
    """`folder_fingerprint` of a model's folder; for an adapter, of it and of its base model."""
    if not is_adapter(folder):
        return folder_fingerprint(folder)
    base = base_of(folder)
    of_base = folder_fingerprint(base) if Path(base).expanduser().is_dir() else base
    return f"{folder_fingerprint(folder, ADAPTER_FILES)}+{of_base}"


def read_adapter(adapter: str, field: str, *, trainable: bool = False, **options: Any) -> Any:
    """An adapter on its base model, as a `PeftModel`.

    Args:
        adapter: the adapter's folder.
        field: the option whose value it is, for errors.
        trainable: whether the adapter is to be trained on.
        options: keyword arguments of `from_pretrained` for the base model.

    Raises:
        UserError: as `base_of`; the base model cannot be read; the adapter does not fit it; or code
            from the base model's repository would have to run, since the adapter's author chose it.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = base_of(adapter, field)
    if options.pop("trust_remote_code", False):
        refuse_adapter(adapter, field, "trust_remote_code=True")
    named = f"{field}={adapter!r}: base_model_name_or_path"
    check_weights(adapter, field)
    check_weights(base, named)
    model = _read(AutoModelForCausalLM, base, named, **options)
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    # tensors of other shapes, modules that the base does not have, unknown fields
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{field}={adapter!r} does not fit its base model {base!r} ({reason})"
        ) from error


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
            run; or as `read_adapter`, if it is an adapter's folder.
    """
    if not is_adapter(name):
        return _read(auto_class, name, field, trust_remote_code=trust_remote_code, **options)
    if trust_remote_code:
        refuse_adapter(name, field, "trust_remote_code=True")
    kind = auto_class.__name__
    if kind.startswith("AutoModel"):
        # PEFT has frozen the base model, of which all weights may be trained now.
        return read_adapter(name, field, **options).merge_and_unload().requires_grad_(True)
    if kind == "AutoTokenizer" and (Path(name).expanduser() / "tokenizer_config.json").is_file():
        return _read(auto_class, name, field, **options)
    return _read(auto_class, base_of(name, field), field, **options)


def _read(
    auto_class: Any, name: str, field: str, *, trust_remote_code: bool = False, **options: Any
) -> Any:
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
