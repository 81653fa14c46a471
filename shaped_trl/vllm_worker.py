"""What an asynchronous run adds to the workers of its vLLM server: weights from a folder.

vLLM imports this module in its own processes (`--worker-extension-cls`), so that it imports neither
TRL nor the trainers.
"""

from __future__ import annotations

from typing import Any

EXTENSION = "shaped_trl.vllm_worker.WeightsFromFolder"


class WeightsFromFolder:
    """A method for vLLM's workers, which its endpoint `collective_rpc` calls."""

    model_runner: Any
    reload_weights: Any

    def load_folder(self, folder: str) -> None:
        """Load the parameters in `folder`/model.safetensors in place of the worker's own.

        A checkpoint has no matrix for a head that is tied to the embedding, and vLLM does nothing
        for a layer without weights. On a CPU it multiplies by packed copies of its matrices, and
        that of the head would remain the old one.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            UnquantizedEmbeddingMethod,
        )

        self.reload_weights(weights_path=folder)
        for layer in self.model_runner.get_model().modules():
            method = getattr(layer, "quant_method", None)
            if isinstance(layer, ParallelLMHead) and isinstance(method, UnquantizedEmbeddingMethod):
                method.process_weights_after_loading(layer)
