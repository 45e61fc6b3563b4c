"""Counting what the model's own code does, operator by operator: FLOPs, bytes, kernels, by phase of the step.

Works on fake tensors too, so that the full size is counted without being computed. A phase is found from where an
operator was called; in the backward, from where its forward was.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

PHASES = ("attention", "retrieval", "read", "fuse", "norms", "head and loss", "optimiser", "update of the bank")

# The first rule that a frame of the stack meets, innermost frame first: (file, beginning of the qualified name, phase).
_RULES = (
    ("product_key.py", "", "retrieval"),
    ("memory.py", "TokenMemory.factors", "retrieval"),
    ("bank_read.py", "", "read"),
    ("layers.py", "SwiGLU", "fuse"),
    ("memory.py", "", "fuse"),
    ("layers.py", "", "attention"),
    ("transformer.py", "Block", "norms"),
    ("transformer.py", "", "head and loss"),
    ("loss.py", "", "head and loss"),
    ("trainer.py", "Trainer._train_on", "head and loss"),
    ("bank_updater.py", "", "update of the bank"),
    ("trainer.py", "Trainer._step", "optimiser"),
)
_MODEL = Path(__file__).parents[2] / "model"

_MOVE_NOTHING = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "device", "_local_scalar_dense"}
_GATHERS = {"embedding", "index", "gather", "index_select"}
_SCATTERS = {"index_add", "index_add_"}
_BAGS = {
    "_embedding_bag",
    "_embedding_bag_forward_only",
    "_embedding_bag_backward",
    "_embedding_bag_per_sample_weights_backward",
}
_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


@dataclass
class Cost:
    """`tensor_flops`: matrix products in bf16; `vector_flops`: those in fp32, and the weighted sums of rows; what is
    computed element by element is not counted. `bytes`: read and written by operators that share nothing; `row_bytes`:
    rows of a table that are read again and again, beyond that. `kernels`: operators that do something, one launch each
    at the least."""

    tensor_flops: float = 0.0
    vector_flops: float = 0.0
    bytes: float = 0.0
    row_bytes: float = 0.0
    kernels: float = 0.0

    def scaled(self, factor: float) -> Cost:
        """So many times this."""
        return Cost(**{name: factor * value for name, value in vars(self).items()})

    def plus(self, other: Cost) -> Cost:
        """Both."""
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class Counter(TorchDispatchMode):
    """Counts every operator inside `with`; `phase`, where it is set, stands for all of them."""

    def __init__(self, phase: str | None = None) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self.phase = phase
        self._forward: dict[int, str] = {}  # phase of the autograd node with this sequence number
        self._last = "head and loss"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count it."""
        del types
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        self._last = self.phase or self.found()
        if not (func.is_view or name in _MOVE_NOTHING or not func._schema.name.startswith("aten::")):
            _add(self.costs[self._last], func, name, (args, kwargs), out)
        return out

    def found(self) -> str:
        """The phase of the operator that is dispatched now."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return self._forward.get(node._sequence_nr(), self._last)
        phase = _phase_of_the_stack() or self._last
        # A node takes its number before its operator runs; the first operator seen after that is its own.
        self._forward.setdefault(torch.autograd._get_sequence_nr() - 1, phase)  # pyright: ignore[reportPrivateImportUsage]
        return phase


def _phase_of_the_stack() -> str | None:
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if _MODEL in path.parents:
            for file, name, phase in _RULES:
                if path.name == file and frame.f_code.co_qualname.startswith(name):
                    return phase
        frame = frame.f_back
    return None


def _add(cost: Cost, func: Any, name: str, given: Any, out: Any) -> None:
    args, kwargs = given
    read = {key: value for key, value in (kwargs or {}).items() if key != "out"}  # which is written, and not read
    tensors = [leaf for leaf in tree_leaves((args, read, out)) if isinstance(leaf, Tensor)]
    cost.kernels += 1
    if name in _BAGS:
        # indices [M, k] or flat; the width of a row is the table's, or the gradient's
        rows = next(t for t in tensors if not t.is_floating_point()).numel()
        width = next(t for t in tensors if t.is_floating_point() and t.dim() == 2).shape[1]
        cost.vector_flops += 2 * rows * width
        cost.row_bytes += 4 * rows * width
        cost.bytes += sum(_size(t) for t in tensors)
        return
    if name in _GATHERS:
        source, *rest = tensors
        del source
        cost.bytes += sum(_size(t) for t in rest) + sum(_size(t) for t in tree_leaves(out) if isinstance(t, Tensor))
        return
    if name in _SCATTERS:
        *_, index, source = (leaf for leaf in args if isinstance(leaf, Tensor))
        cost.bytes += _size(index) + 3 * _size(source)  # read, and the rows it is added to read and written
        return
    cost.bytes += sum(_size(t) for t in tensors)
    if name == "_fused_adamw_":  # it returns nothing, and writes weights and both moments, but not the gradients
        cost.bytes += 3 / 4 * sum(_size(t) for t in tensors)
    flops = _products(func, name, args, kwargs or {}, out)
    if tensors and any(t.dtype == torch.bfloat16 for t in tensors):
        cost.tensor_flops += flops
    else:
        cost.vector_flops += flops


def _products(func: Any, name: str, args: Any, kwargs: Mapping[str, Any], out: Any) -> float:
    """FLOPs of a matrix product or of causal attention (half the square; the backward forms the scores again)."""
    if name.startswith(_ATTENTION):
        query, key, value = args[1:4] if name.endswith("backward") else args[:3]
        forward = sdpa_flop_count(query.shape, key.shape, value.shape) / 2
        return 2.5 * forward if name.endswith("backward") else forward
    in_place = getattr(torch.ops.aten, name.rstrip("_"), None)  # the same product, added to what is there
    formula = flop_registry.get(func._overloadpacket) or flop_registry.get(in_place)
    return float(formula(*args, **kwargs, out_val=out)) if formula else 0.0


def _size(tensor: Tensor) -> int:
    """Bytes that a tensor takes: a row that is expanded is there once."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * prod(size for size, stride in strides if stride)
