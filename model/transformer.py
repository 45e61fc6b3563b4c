"""The language model: blocks of attention and memory over one embedding table, which is also the output head.

Letters: B batch, T tokens, D dim, V vocabulary, X layers that read a bank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.bank import MEMORIES, LayerInputs, MemoryBank, Read
from model.config import Memory, ModelConfig, stream_seed
from model.layers import NORM_EPS, Attention, rotary_table
from model.loss import summed_nats


@dataclass(frozen=True)
class Output:
    """The normed states before the head, and what each layer that reads a bank read, first layer first. `nats` is the
    summed cross-entropy where targets were given. `Transformer.logits` computes logits where they are needed."""

    hidden_BTD: Tensor
    reads: list[Read]
    nats: Tensor | None

    @property
    def balance(self) -> Tensor:
        """Mean balance loss over the layers that read; 0 where none does, so that a total loss always exists."""
        if not self.reads:
            return self.hidden_BTD.new_zeros(())
        return torch.stack([read.balance for read in self.reads]).mean()


class Block(nn.Module):
    """h = x + attention(norm(x)); y = h + memory(norm(h))."""

    def __init__(self, config: ModelConfig, *, memory: Memory) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.attention = Attention(dim=config.dim, n_heads=config.n_heads)
        self.norm2 = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.memory = MEMORIES[memory](config)

    def forward(self, x_BTD: Tensor, rotation_2Td: Tensor, inputs: LayerInputs) -> tuple[Tensor, Read | None]:
        h_BTD = x_BTD + self.attention(self.norm1(x_BTD), rotation_2Td)
        fused_BTD, read = self.memory(self.norm2(h_BTD), inputs)
        return h_BTD + fused_BTD, read


class Transformer(nn.Module):
    """Token ids [B, T] in, states [B, T, D] of the next tokens out, and their loss; W = E. One bank for all layers.

    With `gradient_checkpointing` a block keeps its input only, and the backward computes the block again.
    """

    def __init__(self, config: ModelConfig, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.table = nn.Embedding(config.vocab_size, config.dim)
        kinds: list[Memory] = [
            config.memory if layer in config.layers_with_memory else "none" for layer in range(config.n_layers)
        ]
        self.blocks = nn.ModuleList(Block(config, memory=kind) for kind in kinds)
        self.norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.bank = MemoryBank(config)
        self.readers = config.layers_with_memory if config.has_bank else ()
        """The layers that read the bank: X of them."""
        self.rotation_2Td: Tensor
        rotation = rotary_table(
            max_seq_len=config.max_seq_len, head_dim=config.dim // config.n_heads, theta=config.rope_theta
        )
        self.register_buffer("rotation_2Td", rotation, persistent=False)

    def forward(
        self, ids_BT: Tensor, targets_BT: Tensor | None = None, replace_reads_XD: Tensor | None = None
    ) -> Output:
        """`replace_reads_XD`: a constant read for each of the X layers that read, with which the evaluation measures
        what reading is worth.

        The loss is computed here and not by the caller, so that DDP and a compiler see the whole forward of a step.
        """
        table_VD = self.table.weight
        x_BTD, reads = self.table(ids_BT), []
        for layer, block in enumerate(self.blocks):
            replace_D = None
            if replace_reads_XD is not None and layer in self.readers:
                replace_D = replace_reads_XD[self.readers.index(layer)]
            inputs = x_BTD, self.rotation_2Td, LayerInputs(ids_BT, self.bank, table_VD, replace_D)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Nothing in a block is random. The read that it returns besides the states is the first pass's.
                x_BTD, read = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD, read = block(*inputs)
            if read is not None:
                reads.append(read)
        hidden_BTD = self.norm(x_BTD)
        nats = None if targets_BT is None else summed_nats(hidden_BTD, table_VD, targets_BT)
        return Output(hidden_BTD, reads, nats)

    @property
    def sub_keys(self) -> list[nn.Parameter]:
        """The sub-keys [2, n, h] of each layer that reads the bank, first layer first."""
        return [self.blocks[layer].get_parameter("memory.keys_2nh") for layer in self.readers]

    def logits(self, hidden: Tensor) -> Tensor:
        """States [.., D] through the head: [.., V]."""
        return hidden @ self.table.weight.T


@torch.no_grad()
def initialise(model: Transformer, *, seed: int) -> None:
    """E and the tables of `ngram` ~ N(0, 0.02); the rows of `values` ~ N(0, 1 / sqrt(D)); keys uniform in
    +-1/sqrt(Q/2); linear layers uniform in +-1/sqrt(fan in); gains and temperatures 1, biases 0. What the bank draws:
    MemoryBank.initialise.

    Every parameter draws from the stream of its own name, on the CPU. So the values are the same on every device, and
    two arms that share a parameter share its values bit for bit.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(stream_seed(seed, f"init/{name}"))
        drawn = torch.empty(parameter.shape)
        if name == "table.weight" or name.endswith(".rows_RE"):
            drawn.normal_(0.0, 0.02, generator=generator)
        elif name.endswith(".rows_ND"):
            drawn.normal_(0.0, 1 / math.sqrt(parameter.shape[-1]), generator=generator)
        elif parameter.dim() == 1:
            drawn.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            bound = 1 / math.sqrt(parameter.shape[-1])  # fan in of a linear layer; Q/2 of the keys
            drawn.uniform_(-bound, bound, generator=generator)
        parameter.copy_(drawn)
    model.bank.initialise(seed=seed)
