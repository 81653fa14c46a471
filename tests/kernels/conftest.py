"""Uninitialised memory is NaN in these tests: a value that is read before it is written shows at
once."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    # In this mode torch fills torch.empty and its kin with NaN, and refuses operations that are not
    # repeatable.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Tensors this small only wait for a second thread, for milliseconds an operation on a busy
    # machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
