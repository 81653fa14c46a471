"""The vLLM server of an asynchronous run: how to start it, and whether it is the right one.

It listens at `vllm_server_base_url`, by default on this machine only: vLLM's endpoints for weights
have no authentication.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import requests
import torch
from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line, visible
from trl.experimental.async_grpo.vllm_client import VLLMClient

from shaped_trl.rlvr.asynchronous.config import AsyncRLVRConfig
from shaped_trl.vllm_worker import EXTENSION

logger = logging.getLogger(__name__)
# `localhost` may also name an address of the network
LOCAL = {"localhost": "127.0.0.1"}
TIMEOUT_S = 60


def server_command(
    model: str, args: AsyncRLVRConfig, max_prompt_length: int | None = None
) -> list[str]:
    """The command of vLLM's server, for a run with these arguments.

    Args:
        model: path or Hub id.
        args: address, type of the weights, lengths, and how weights are transferred.
        max_prompt_length: tokens of the longest prompt. Without it the server has room for as many
            tokens as the model has positions.
    """
    url = urlsplit(args.vllm_server_base_url)
    host = url.hostname or "127.0.0.1"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", model, "--host", LOCAL.get(host, host), "--port", str(url.port or 8000)),
        *("--dtype", args.dtype, "--logprobs-mode", "processed_logprobs"),
    ]
    if args.weight_transfer == "nccl":
        command += ["--weight-transfer-config", '{"backend": "nccl"}']
    else:
        command += ["--worker-extension-cls", EXTENSION]
    if max_prompt_length is not None:
        longest = max_prompt_length + args.length_schedule().longest
        command += ["--max-model-len", str(longest)]
    if not torch.cuda.is_available():
        # TRL sends a seed with each completion; with chunked prefill vLLM 0.31 fails on it on a CPU
        command += ["--no-enable-chunked-prefill"]
    return command


def check_served(client: VLLMClient, model: str, args: AsyncRLVRConfig) -> None:
    """Wait for the server, and check that it can serve this run.

    Raises:
        UserError: it does not answer in time, serves another model, is not in development mode,
            has log-probabilities before temperature, or has no room for the longest completion.
    """
    address = client.server_url
    try:
        client.wait_for_server_ready()
    except TimeoutError as error:
        raise UserError(
            f"vllm_server_base_url={address!r} does not answer after "
            f"{args.vllm_server_timeout:g} s: start the server first: VLLM_SERVER_DEV_MODE=1 "
            f"{shlex.join(server_command(model, args))}"
        ) from error
    served = _get(address, "v1/models")
    try:
        models = {str(each["id"]): int(each["max_model_len"]) for each in served["data"]}
        info = _get(address, "server_info?config_format=json")["vllm_config"]["model_config"]
        mode = str(info["logprobs_mode"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"vllm_server_base_url={address!r} is not a vLLM server in development mode: start it "
            "with VLLM_SERVER_DEV_MODE=1"
        ) from error
    dtype = str(info.get("dtype", "")).removeprefix("torch.")
    if args.dtype not in ("auto", dtype) and dtype:
        logger.warning(
            f"the vLLM server at {address} computes in {one_line(dtype)[:40]} and the trainer in "
            f"{args.dtype}: log-probabilities differ by that; start it with --dtype {args.dtype}"
        )
    if model not in models:
        raise UserError(
            f"the vLLM server at {address} serves {one_line(', '.join(models))[:200]}, not "
            f"{model!r}: start it with --model {model}"
        )
    longest = args.length_schedule().longest
    if longest >= models[model]:
        raise UserError(
            f"{longest:,} tokens of a completion after a prompt do not fit the server's "
            f"--max-model-len {models[model]:,}: raise it, or lower max_completion_length"
        )
    if args.temperature != 1 and not mode.startswith("processed"):
        raise UserError(
            f"temperature={args.temperature} needs a server with --logprobs-mode "
            "processed_logprobs: the ratio would be to another distribution"
        )


def _get(address: str, path: str) -> Any:
    try:
        return requests.get(f"{address}/{path}", timeout=TIMEOUT_S).json()
    except (requests.RequestException, ValueError):  # no answer, or not JSON
        return None


def serve(model: str, args: AsyncRLVRConfig, max_prompt_length: int | None) -> None:
    """Become the server of a run, with the arguments of `server_command`.

    Raises:
        UserError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise UserError("serve=True needs vLLM: install the extra vllm, or vLLM's build for CPUs")
    command = server_command(model, args, max_prompt_length)
    print(visible(shlex.join(command)), flush=True)
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    os.execvp(command[0], command)
