"""Uninitialised memory is NaN in these tests, so that reading it before a write shows at once."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    # In this mode torch fills the memory of torch.empty and similar functions with NaN, and refuses
    # operations that are not deterministic.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # With tensors this small, a second thread only costs time: on a busy machine, milliseconds per
    # operation.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
