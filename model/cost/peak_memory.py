"""Predicts the peak memory of a configuration before it runs, without a GPU. Imports torch only for a new prediction.

A trial's peak is the largest of a step's, an update's and an evaluation's. The first two, and an evaluation's forward,
are traced on fake tensors (fake_step.py); what an evaluation keeps besides is computed here. On a GPU there are also
parts that no program sees: buffers of libraries, the allocator's rounding, the context. docs/memory.md says how each of
these was checked.

Letters: B batch, T tokens, N entries, L tokens an entry, V vocabulary, Q query width, R residual width, X layers that
read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from model.config import Config, cache_dir, code_hash
from model.config.work_sizes import CPU_CACHE_BYTES, CUDA_CACHE_BYTES, UPDATE_BYTES
from model.cost.formulas import GIB, is_recorded

if TYPE_CHECKING:
    from model.cost.fake_step import StepTrace

Device = Literal["cuda", "cpu"]

MIB = 2**20
BLOCK, SMALL_SEGMENT, LARGE_SEGMENT = 512, 2 * MIB, 20 * MIB
"""From CUDACachingAllocator.cpp: what it rounds each block up to, and by how much its two pools grow."""
WORKSPACES = 2 * 8 * 4 * MIB
"""cuBLAS under CUBLAS_WORKSPACE_CONFIG=:4096:8 (model/engine.py): 8 of 4 MiB for a handle, and the backward's thread
has its own handle. The stream of a recording has as much again."""
CONTEXT = 480 * MIB
"""Assumed, not measured here: CUDA's context with the PyTorch kernels that a step loads. PyTorch does not count it as
reserved."""
CONTEXT_GIB = CONTEXT / GIB
PROCESS = 563 * MIB
"""Measured: the resident memory of a trial on a CPU beyond what PyTorch allocates. 0.41 GiB in `model.train`, 0.44 in a
sweep's own process, 0.51 to 0.55 in a worker of Ray."""
PROCESS_GIB = PROCESS / GIB
RANKS = 256 * MIB
"""Assumed, not measured here: NCCL's channels, where there are several ranks."""
PROBE_TOKENS, SPELT_OUT = 13, 30
"""Tokens of a question about a fact with its answer (counted); and where the vocabulary is below 1,024, in which few
tokens are words."""

_SIZELESS = {"ema_decay", "ema_update_freq", "rope_theta", "kb_fit", "kb_init", "kb_layout", "refresh_after"}
"""Keys of the model that change no size."""


@dataclass(frozen=True)
class Footprint:
    """`parts` in GiB, whose sum is `peak_gib`: `weights`, `gradients`, `optimiser`, `activations`, `bank` at the peak
    of a step; `update` and `evaluation`: by how much an update of the bank, then an evaluation, exceeds that. On the
    CPU also `process` (the interpreter with its libraries, before it trains). On CUDA also `kernels` (what kernels and
    cuBLAS hold inside), `rounding`, `context`, `ranks` (0 with one)."""

    peak_gib: float
    parts: Mapping[str, float]

    @property
    def reserved_gib(self) -> float:
        """What PyTorch's allocator reserves: all but the context, on the CPU all but the process. A process's share of
        a GPU bounds this."""
        return self.peak_gib - self.parts.get("context", 0.0) - self.parts.get("process", 0.0)


def footprint(config: Config, *, device: Device = "cuda", ranks: int = 1) -> Footprint:
    """The peak of one rank's process. Takes about a second, and no time once it is cached in the process and in
    $XDG_CACHE_HOME (~/.cache) / ablate / footprints."""
    key = _key(config, device=device, ranks=ranks)
    if key not in _KNOWN:
        folder = cache_dir("footprints")
        parts = _read(folder / f"{key}.json") if folder else None
        if parts is None:
            parts = {name: size / GIB for name, size in _parts(config, device=device, ranks=ranks).items()}
            if folder:
                _write(folder / f"{key}.json", parts)
        _KNOWN[key] = Footprint(sum(parts.values()), MappingProxyType(parts))
    return _KNOWN[key]


_KNOWN: dict[str, Footprint] = {}


def _parts(config: Config, *, device: Device, ranks: int) -> dict[str, int]:
    """Bytes by part."""
    from model.cost.fake_step import trace_forward, trace_step  # imports torch

    train = config.train
    bf16 = train.precision == "bf16" or (train.precision == "auto" and device == "cuda")
    recorded = is_recorded(config, cuda=device == "cuda", ranks=ranks)
    step = trace_step(config, device=device, bf16=bf16, batch=-(-train.batch_size // ranks), recorded=recorded)
    forward = trace_forward(config, device=device, bf16=bf16, batch=config.eval.val_batch_size)
    asked = (
        trace_forward(_asked(config), device=device, bf16=bf16, batch=_questions(config)) if _questions(config) else 0
    )
    casts = step.weights // 2 if bf16 else 0  # autocast keeps them at any batch size
    validation, final = _evaluation(config, step, forward=forward, asked=asked, casts=casts, device=device)
    held = step.weights + step.bank + step.optimiser
    update, evaluation = step.update - step.step, held + max(validation, final) - max(step.step, step.update)
    if recorded:  # the recording keeps its memory: what follows takes other memory
        update, evaluation = step.update - step.between, max(validation, final) - (step.update - step.between)
    parts = {
        "weights": step.weights,
        "gradients": step.gradients,
        "optimiser": step.optimiser,
        "activations": step.step - step.weights - step.gradients - step.optimiser - step.bank - step.inner,
        "bank": step.bank,
        "update": max(0, update),
        "evaluation": max(0, evaluation),
    }
    if device == "cpu":
        parts["activations"] += step.inner
        return {**parts, "process": PROCESS}
    parameters = step.optimiser // 2
    return {
        **parts,
        "kernels": step.inner + (2 if recorded else 1) * WORKSPACES,
        "rounding": step.blocks * BLOCK // 2 + SMALL_SEGMENT + LARGE_SEGMENT,
        "context": CONTEXT,
        "ranks": parameters + RANKS if ranks > 1 else 0,  # DDP's buckets are as large as the gradients
    }


def _questions(config: Config) -> int:
    """How many questions about facts are one batch, each with one of its answers."""
    at_once, all_of_them = 8 * config.eval.val_batch_size, config.eval.fact_probes * config.data.facts_objects
    return min(at_once, all_of_them) if config.data.corpus == "facts" else 0


def _asked(config: Config) -> Config:
    """The configuration with sequences of a question's length."""
    tokens = PROBE_TOKENS if config.model.vocab_size >= 1_024 else SPELT_OUT
    shorter = config.model.model_copy(update={"max_seq_len": min(config.model.max_seq_len, tokens)})
    return config.model_copy(update={"model": shorter})


def _evaluation(
    config: Config, step: StepTrace, *, forward: int, asked: int, casts: int, device: Device
) -> tuple[int, int]:
    """Bytes that an evaluation holds besides training, at a report and at the end, when there are no gradients.

    These are the peaks of a forward over held-out text (`forward` bytes, including `casts` of the weights) with the
    counts, with the bank's rows in another order, or in the model of the checkpoint; of a forward over questions
    (`asked`); and of what is computed from the counts.
    """
    model, evaluated = config.model, config.eval
    N, L, V, T = model.knowledge_num, model.knowledge_length, model.vocab_size, model.max_seq_len
    counts = 4 * N * len(model.layers_with_memory) if model.has_bank else 0
    contents = (
        4
        * N
        * (
            (L if model.stores_tokens else 0)
            + {"vector": model.knowledge_dim, "hybrid": model.residual_dim}.get(model.memory, 0)
        )
    )
    order = 8 * N if model.has_bank else 0
    # Prompts with their continuations, val_batch_size at a time; then prompts with the model's samples, all at once.
    prompts, wide = evaluated.prompts, min(T, 1 + evaluated.prompt_tokens + evaluated.new_tokens)
    written = max(min(prompts, evaluated.val_batch_size) * T, prompts * wide) / (evaluated.val_batch_size * T)
    cache = 2 * (CPU_CACHE_BYTES if device == "cpu" else CUDA_CACHE_BYTES)
    encoded = min(UPDATE_BYTES, cache, 4 * V * V) if model.stores_tokens else 0
    return counts + forward, max(
        counts + max(asked, forward),
        counts + contents + order + forward,
        counts + step.weights + step.bank + casts + round(written * max(0, forward - casts)),
        counts + 2 * (step.weights + step.bank) if device == "cpu" else 0,  # the model, and what was read of the file
        29 * counts // 4,  # the counts in fp64, their shares and entropies
        counts + max(encoded, 12 * N * L if model.stores_tokens else 0),  # sorted entries, with their order
    )


def _key(config: Config, *, device: Device, ranks: int) -> str:
    """A hash of what the prediction depends on: the sizes in the configuration, the model's code, torch's version."""
    train, evaluated = config.train, config.eval
    relevant = [
        {key: value for key, value in config.model.model_dump().items() if key not in _SIZELESS},
        (train.batch_size, train.gradient_checkpointing, train.precision, train.accumulation_steps == 1, train.engine),
        config.model.ema_update_freq % train.accumulation_steps == 0,
        (evaluated.val_batch_size, evaluated.prompts, evaluated.prompt_tokens, evaluated.new_tokens),
        (evaluated.fact_probes, config.data.facts_objects),
        (config.data.corpus == "facts", device, ranks),
        (importlib.metadata.version("torch"), code_hash(whole=True)),
    ]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, float] | None:
    """The cached parts; None where there are none, or where the file holds something else."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(parts, dict) and all(isinstance(size, float) for size in parts.values())
    return parts if whole and "weights" in parts else None


def _write(path: Path, parts: Mapping[str, float]) -> None:
    """Write the file complete or not at all. A folder that cannot be written costs a second the next time, no more."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(parts), file)
        Path(draft).replace(path)
