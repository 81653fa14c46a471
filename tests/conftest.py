"""Without a GPU the Triton kernels run in Triton's interpreter, on the CPU: said before anything
imports triton."""

import os

import torch

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what repeatable matmuls ask for
else:
    os.environ["TRITON_INTERPRET"] = "1"
