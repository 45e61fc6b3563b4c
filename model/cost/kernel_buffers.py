"""What kernels hold inside while they run. It is no tensor of the program, but it counts on the device.

For the CPU's kernels it was measured (docs/memory.md); for CUDA's it was read in PyTorch's source (2.13; each function
names the file) and not measured. Deterministic algorithms are on, as in model/engine.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.cost.allocations import Inner

NROWS_PER_THREAD = 10
"""From EmbeddingBackwardKernel.cu: rows that one thread adds up before it writes the sum to a buffer."""


def _nothing_to_copy(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype == dtype


def _widened(args: tuple[Any, ...], out: Any) -> int:
    """EmbeddingBag.cpp: int32 indices become int64 where the offsets are int64."""
    del out
    indices, offsets = args[1], args[2]
    return 0 if indices.dtype == offsets.dtype else 8 * indices.numel()


def _bags(args: tuple[Any, ...], out: Any) -> int:
    """EmbeddingBag.cu: the widened indices, and the number of each one's bag (which the CPU does not need)."""
    indices, offsets = args[1], args[2]
    return _widened(args, out) + offsets.element_size() * (indices.numel() + offsets.numel())


def _sort(args: tuple[Any, ...], out: Any) -> int:
    """Sort.cpp, SortStable.cu and cub's radix sort: an initial order, and second buffers of keys and order."""
    del out
    return (16 + args[0].element_size()) * args[0].numel()


def _unique(args: tuple[Any, ...], out: Any) -> int:
    """UniqueCub.cu: sorted keys and a second buffer; with an inverse the order, a second buffer and running numbers."""
    del out
    keys, inverse = args[0], len(args) > 2 and args[2]
    return keys.numel() * (2 * keys.element_size() + (32 if inverse else 0))


def _embedding_backward(args: tuple[Any, ...], out: Any) -> int:
    """EmbeddingBackwardKernel.cu: sorted indices, order, second buffers of both; fp32 sums of partial segments."""
    indices, (rows, width) = args[1], out.shape
    n = indices.numel()
    segments = n // NROWS_PER_THREAD + min(n, rows)
    return 32 * n + 4 * segments * (width + 2)


def _index_add(args: tuple[Any, ...], out: Any) -> int:
    """Indexing.cu: the deterministic algorithm sorts the index first, and then puts `source * alpha`."""
    del out
    index, source = args[2], args[3]
    return source.numel() * source.element_size() + 40 * index.numel()


def _attention_backward(args: tuple[Any, ...], out: Any) -> int:
    """flash_api.cpp: in bf16 the query's gradient is summed in fp32, with heads at least 32 wide, and each row has a
    number; in fp32 (mem_eff_attention) there is that number only."""
    del out
    B, H, T, d = args[1].shape
    rows = 4 * B * H * T
    return rows * (max(32, d) + 1) if args[1].dtype == torch.bfloat16 else rows


def _packed(args: tuple[Any, ...], out: Any) -> int:
    """bank/primitives/top_k.py: value and column as float64."""
    del out
    return 8 * args[0].numel()


INNER: Mapping[str, Mapping[str, Inner]] = {
    "cpu": {
        "aten::_embedding_bag": _widened,
        "aten::_embedding_bag_forward_only": _widened,
        "token_memory::largest_columns": _packed,
    },
    "cuda": {
        "aten::_embedding_bag": _bags,
        "aten::_embedding_bag_forward_only": _bags,
        "aten::sort": _sort,
        "aten::_unique2": _unique,
        "aten::embedding_dense_backward": _embedding_backward,
        "aten::index_add": _index_add,
        "aten::index_add_": _index_add,
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    },
}
"""Device -> operator (as the CPU names it) -> bytes beside arguments and result."""
