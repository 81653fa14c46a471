"""TRL's vLLM engine or server, started with the checkpoint's dtype and errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import set_seed
from shaped_eval.backends.prompts import weights_dtype
from shaped_eval.backends.vllm import explained
from shaped_eval.errors import UserError
from transformers import AutoConfig
from trl.generation import vllm_generation

from shaped_trl.rlvr.config import RLVRConfig


@contextmanager
def vllm_started(args: RLVRConfig) -> Iterator[None]:
    """Around the construction of a GRPOTrainer, which starts its engine or looks for its server.

    TRL names no dtype, and vLLM then turns float32 into bfloat16: here the engine gets the
    checkpoint's. The engine seeds this process with the number of the process, and draws from the
    process's stream, so that all seeds would sample alike: the process is seeded again.

    Raises:
        UserError: the engine does not start, or the server does not answer.
    """
    if not args.use_vllm:
        yield
        return
    try:
        with _with_dtype():
            yield
    except OSError as error:
        # TRL raises the ConnectionError of `requests`, which is an OSError, as a missing file is
        if "vLLM server can't be reached" not in str(error):
            raise
        address = (
            args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
        )
        raise UserError(
            f"vllm_mode='server': no vLLM answers at {address} within vllm_server_timeout="
            f"{args.vllm_server_timeout:g} s: start `vllm serve` there with the options in "
            "docs/guides/vllm.md, or check vllm_server_base_url"
        ) from error
    if args.vllm_mode == "colocate":
        set_seed(args.seed, device_specific=True)  # as TRL does before the engine starts


@contextmanager
def _with_dtype() -> Iterator[None]:
    """TRL's module makes its engine by the name `LLM`, which it lacks where vLLM is missing."""
    engine_class = getattr(vllm_generation, "LLM", None)
    if engine_class is None:
        yield
        return

    def start(**options: Any) -> Any:
        config = AutoConfig.from_pretrained(
            options["model"], trust_remote_code=options["trust_remote_code"]
        )
        try:
            return engine_class(**options, dtype=weights_dtype(config) or "auto")
        except (ValueError, RuntimeError) as error:
            raise UserError(explained(error, "vllm_max_model_length")) from error

    vllm_generation.LLM = start
    try:
        yield
    finally:
        vllm_generation.LLM = engine_class
