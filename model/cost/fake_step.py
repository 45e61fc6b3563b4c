"""Runs a training step, an update of the bank and an evaluation on fake tensors, and counts the bytes that they hold.

It needs no GPU and almost no memory. The model's own code runs, so no second description of it is needed. Where a shape
depends on values, it gets its largest average (`_Shapes`); where operators keep other tensors on a GPU than on the CPU,
those of the GPU replace them (`_as_on_a_gpu`); kernel_buffers.py has what kernels hold inside.

Letters: B batch, T tokens, K selected, N entries, S updated entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.bank import cached_pairs, pretending, update_bank
from model.config import Config, ModelConfig
from model.config.work_sizes import CPU_CACHE_BYTES, CUDA_CACHE_BYTES
from model.cost.allocations import Allocations
from model.cost.kernel_buffers import INNER
from model.data import IGNORED
from model.optimizer import adamw
from model.transformer import Output, Transformer

Device = Literal["cuda", "cpu"]

PIECES = 32
"""The most pieces that a loop is cut into on the CPU: more change the result little, and take long."""

ENOUGH = 2_000
"""The operators of an update that are traced: after so many its parts only repeat."""


@dataclass(frozen=True)
class StepTrace:
    """Bytes. `step` and `update`: the most that is held at a time, everything included; `between`: what is held between
    a step and an update. `gradients` and `inner` (what a kernel holds inside) are parts of `step` at its peak, `blocks`
    its number of blocks. `events`: the calls of an allocator up to the end of the update."""

    weights: int
    bank: int
    optimiser: int
    gradients: int
    inner: int
    step: int
    between: int
    update: int
    blocks: int
    events: tuple[tuple[int, int], ...]


def trace_step(config: Config, *, device: Device, bf16: bool, batch: int, recorded: bool = False) -> StepTrace:
    """A step of one rank with `batch` sequences, its optimiser's update, and the bank's update that may follow. Where
    micro-batches are `recorded`, gradients stay where they are."""
    train, model_config = config.train, config.model
    with _fake(config, device=device, positions=batch * model_config.max_seq_len) as record:
        model = Transformer(model_config, gradient_checkpointing=train.gradient_checkpointing == "on")
        if device == "cuda":
            _as_on_a_gpu(model)
        optimizer = adamw(model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # creates its moments
        clears = train.accumulation_steps == 1 and not recorded
        if clears:
            optimizer.zero_grad()
        record.restart()
        x_BT = torch.empty(batch, model_config.max_seq_len, dtype=torch.int64)
        y_BT = torch.empty_like(x_BT)
        with _autocast(bf16):
            output = model(x_BT, y_BT)
        assert output.nats is not None, "targets were given"
        total = output.nats / (y_BT != IGNORED).sum() + train.balance_loss_coef * output.balance
        (total / train.accumulation_steps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
        optimizer.step()
        step, inner = record.peak, record.inner_at_peak
        owned = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        gradients, blocks = record.held_at_peak(owned), record.blocks_at_peak
        del owned
        # An update of the bank may come between two of the optimiser.
        if clears or (not recorded and model_config.ema_update_freq % train.accumulation_steps == 0):
            optimizer.zero_grad()
        record.restart()
        between = record.live
        if model_config.has_bank and model_config.ema == "on":
            _update(model, output, record=record)
        weights = _bytes(model.parameters()) + _bytes([model.rotation_2Td])
        return StepTrace(
            weights=weights,
            bank=_bytes(model.bank.buffers()),
            optimiser=sum(_bytes(state.values()) for state in optimizer.state.values()),
            gradients=gradients,
            inner=inner,
            step=step,
            between=between,
            update=record.peak,
            blocks=blocks,
            events=tuple(record.events),
        )


def trace_forward(config: Config, *, device: Device, bf16: bool, batch: int) -> int:
    """Bytes that an evaluation's forward holds at most besides the model. One layer of each kind runs, and the reads of
    the other layers are added."""
    chosen = config.model
    readers = len(chosen.layers_with_memory)
    kinds = 2 if 0 < readers < chosen.n_layers else 1
    few = chosen.model_copy(update={"n_layers": kinds, "memory_layers": "all" if kinds == 1 else str(kinds - 1)})
    with _fake(config, device=device, positions=batch * chosen.max_seq_len) as record, torch.no_grad():
        model = Transformer(few)
        if device == "cuda":
            _as_on_a_gpu(model)
        before = record.live
        record.restart()
        x_BT = torch.empty(batch, chosen.max_seq_len, dtype=torch.int64)
        with _autocast(bf16):
            output = model(x_BT, torch.empty_like(x_BT))
        peak = record.peak - before
        kept = record.live
        reads = len(output.reads)
        output = None
        kept -= record.live
    return peak + (kept // reads * (readers - reads) if reads else 0)


@contextmanager
def _fake(config: Config, *, device: Device, positions: int) -> Iterator[Allocations]:
    model = config.model
    cache = CUDA_CACHE_BYTES
    if device == "cpu":
        cache = max(CPU_CACHE_BYTES, 4 * positions * model.num_selected * model.dim // PIECES)
    # The cached pairs must not be real within this block, nor fake after it.
    cached_pairs.cache_clear()
    try:
        with ExitStack() as stack:
            stack.enter_context(pretending(device, cache=cache))
            stack.enter_context(_made_of(torch.float64 if config.train.precision == "fp64" else torch.float32))
            stack.enter_context(FakeTensorMode())
            record = stack.enter_context(Allocations(INNER[device]))
            yield record
    finally:
        cached_pairs.cache_clear()


def _update(model: Transformer, output: Output, *, record: Allocations) -> None:
    bank, config = model.bank, model.bank.config
    draws = sum(read.selection.index_BTK.numel() for read in output.reads)
    try:
        with _Shapes(config, draws=draws, record=record) as shapes, _lists(shapes.bounds), torch.no_grad():
            update_bank(bank, output.reads, table_VD=model.table.weight, config=config)
    except _Enough:
        pass


class _Enough(Exception):
    """The rest of the update repeats what was traced."""


class _Shapes(TorchDispatchMode):
    """Gives operators whose result's shape depends on values the largest shape that the result has on average.

    S is the number of entries that uniform choice touches, N (1 - (1 - K/N)^(draws/K)): any other choice touches fewer
    on average. Pairs (entry, token) are all distinct, all tokens occur, and a mask is true everywhere. Raises _Enough.
    """

    def __init__(self, config: ModelConfig, *, draws: int, record: Allocations) -> None:
        super().__init__()
        N, K = config.knowledge_num, config.num_selected
        touched = N * (1 - (1 - K / N) ** (draws / K)) if K < N else N
        self._entries = max(1, min(round(touched), draws, N - config.frozen_entries))
        self._vocabulary, self._record = config.vocab_size, record
        self._begun, self._pairs = record.operators, 0

    def bounds(self, tile_T: Tensor) -> list[int]:
        """Where tiles of the pairs begin, which `encode` reads from the device: the first ten, at equal distances."""
        tiles = len(tile_T) - 1
        return [self._pairs * tile // tiles for tile in range(min(10, tiles + 1))]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, or return what it would return."""
        del types
        if self._record.operators > self._begun + ENOUGH:
            raise _Enough
        name = func._schema.name
        if name == "aten::_unique2":
            return self._unique(*args, **(kwargs or {}))
        if name == "aten::nonzero":
            return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64)
        if name == "aten::index" and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask = args[1][0]
            return args[0].new_empty(mask.numel(), *args[0].shape[mask.dim() :])
        return func(*args, **(kwargs or {}))

    def _unique(self, values: Tensor, sort: bool = True, inverse: bool = False, counts: bool = False) -> Any:
        del sort, counts
        if not inverse:
            distinct = min(self._entries, values.numel())
        elif values.dim() == 2:
            distinct = self._pairs = values.numel()  # (entry, token)
        else:
            distinct = min(self._vocabulary, values.numel())
        result = values.new_empty(distinct), values.new_empty(values.shape if inverse else 0), values.new_empty(0)
        self._record.hold_inside("aten::_unique2", (values, True, inverse), result)
        return result


@contextmanager
def _lists(answer: Callable[[Tensor], list[int]]) -> Iterator[None]:
    """Within the `with` block, `answer` replaces `tolist` of fake tensors, which have no values."""
    kept = FakeTensor.tolist
    FakeTensor.tolist = answer_of = lambda self: answer(self)
    try:
        yield
    finally:
        assert FakeTensor.tolist is answer_of, "one trace at a time"
        FakeTensor.tolist = kept


def _as_on_a_gpu(model: nn.Module) -> None:
    """Let RMSNorm keep what CUDA's kernel keeps: its fp32 input, its result, a number a row. The CPU's keeps more."""
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.forward = lambda x, gain=module.weight: _FusedNorm.apply(x, gain)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        x = x.to(gain.dtype)  # autocast's rule for norms
        ctx.save_for_backward(x, gain, x.new_empty(*x.shape[:-1], 1))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        del slope
        x, gain, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(gain)


def _autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)


@contextmanager
def _made_of(dtype: torch.dtype) -> Iterator[None]:
    """Set the type of new tensors within the `with` block: watched weights cannot be converted."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def _bytes(tensors: Any) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if isinstance(tensor, Tensor))
