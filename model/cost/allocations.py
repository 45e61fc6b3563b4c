"""Counts the bytes that are held while code runs on fake tensors: every block that operators allocate and free.

A block is a storage. It is allocated when an operator first returns it and freed with its last reference, as in an
allocator. What a kernel allocates and frees inside is no tensor: a table of formulas gives its bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Inner = Callable[[tuple[Any, ...], Any], int]
"""(arguments, result) -> bytes that a kernel holds besides them while it runs."""


class Allocations(TorchDispatchMode):
    """Watches every operator within the `with` block.

    `live`, `peak`: bytes held now, and the most so far; `inner_at_peak`: the part of the peak that a kernel held
    inside; `blocks_at_peak`: its number of blocks. `operators`: how many ran. `events`: (block, bytes) in the order of
    an allocator's calls; bytes above 0 allocate the block, 0 frees it. `inner`: formulas by the name of the operator.
    """

    def __init__(self, inner: Mapping[str, Inner]) -> None:
        super().__init__()
        self.live = self.peak = self.inner_at_peak = self.blocks_at_peak = self.operators = 0
        self.events: list[tuple[int, int]] = []
        self._inner = inner
        self._sizes: dict[int, int] = {}
        # address of a storage -> (block, reference that notices its end)
        self._watched: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._blocks = self._peak_block = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count new storages."""
        del types
        self.operators += 1
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self._see(out)
        else:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._see(leaf)
        self.hold_inside(func._schema.name, args, out)
        return out

    def hold_inside(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Allocate and free what the kernel of that operator holds inside."""
        formula = self._inner.get(name)
        if formula is not None and (size := formula(args, out)) > 0:
            self._give_back(self._take(size, inner=size))

    def restart(self) -> None:
        """Start a new peak."""
        self.peak, self.inner_at_peak, self._peak_block = self.live, 0, self._blocks
        self.blocks_at_peak = len(self._sizes)

    def held_at_peak(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of those tensors, all still alive, that existed at the last peak."""
        blocks = {self._watched[tensor.untyped_storage()._cdata][0] for tensor in tensors}
        return sum(self._sizes[block] for block in blocks if block <= self._peak_block)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._watched:
            block = self._take(storage.nbytes())
            self._watched[address] = block, weakref.ref(storage, lambda _: self._end(address))

    def _end(self, address: int) -> None:
        block, _ = self._watched.pop(address)
        self._give_back(block)

    def _take(self, size: int, *, inner: int = 0) -> int:
        self._blocks += 1
        self._sizes[self._blocks] = size
        self.live += size
        if self.live > self.peak:
            self.peak, self.inner_at_peak, self._peak_block = self.live, inner, self._blocks
            self.blocks_at_peak = len(self._sizes)
        self.events.append((self._blocks, size))
        return self._blocks

    def _give_back(self, block: int) -> None:
        self.live -= self._sizes.pop(block)
        self.events.append((block, 0))
