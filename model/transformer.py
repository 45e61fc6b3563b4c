"""The language model: blocks of attention and memory over one embedding table, which is the output head as well.

Letters: B batch, T tokens, D dim, V vocabulary, N entries, L tokens an entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import Attention, rotary_table
from model.memory import MEMORIES, NORM_EPS, Read
from model.streams import stream_seed


@dataclass(frozen=True)
class Output:
    """`logits_BTV`, and what each layer that has a memory read (empty without one), first layer first."""

    logits_BTV: Tensor
    reads: list[Read]

    @property
    def balance(self) -> Tensor:
        """Mean balance loss over layers; 0 without a memory, so that a total can always be formed."""
        if not self.reads:
            return self.logits_BTV.new_zeros(())
        return torch.stack([read.balance for read in self.reads]).mean()


class Block(nn.Module):
    """h = x + attention(norm(x)); y = h + memory(norm(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.attention = Attention(dim=config.dim, n_heads=config.n_heads)
        self.norm2 = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.memory = MEMORIES[config.memory](config)

    def forward(
        self,
        x_BTD: Tensor,
        rotation_2Td: Tensor,
        bank_NL: Tensor,
        table_VD: Tensor,
        replace_read_D: Tensor | None,
    ) -> tuple[Tensor, Read | None]:
        h_BTD = x_BTD + self.attention(self.norm1(x_BTD), rotation_2Td)
        fused_BTD, read = self.memory(self.norm2(h_BTD), bank_NL, table_VD, replace_read_D)
        return h_BTD + fused_BTD, read


class Transformer(nn.Module):
    """Token ids [B, T] in, next-token logits [B, T, V] out; W = E. The bank is one for all layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        has_bank = config.memory == "token"
        shape = (config.knowledge_num, config.knowledge_length) if has_bank else (0, config.knowledge_length)
        self.bank_NL: Tensor
        self.rotation_2Td: Tensor
        self.register_buffer("bank_NL", torch.zeros(shape, dtype=torch.int32))
        # How often the last validation selected each entry, and in how many tokens: a checkpoint says what it is worth.
        self.used_N: Tensor
        self.used_tokens: Tensor
        self.register_buffer("used_N", torch.zeros(shape[0], dtype=torch.int32))
        self.register_buffer("used_tokens", torch.zeros((), dtype=torch.int64))
        rotation = rotary_table(
            max_seq_len=config.max_seq_len, head_dim=config.dim // config.n_heads, theta=config.rope_theta
        )
        self.register_buffer("rotation_2Td", rotation, persistent=False)

    def forward(self, ids_BT: Tensor, replace_reads_XD: Tensor | None = None) -> Output:
        """`replace_reads_XD`: a constant read a layer [n_layers, D], an intervention of the evaluation."""
        table_VD = self.table.weight
        x_BTD, reads = self.table(ids_BT), []
        for layer, block in enumerate(self.blocks):
            replace_D = None if replace_reads_XD is None else replace_reads_XD[layer]
            x_BTD, read = block(x_BTD, self.rotation_2Td, self.bank_NL, table_VD, replace_D)
            if read is not None:
                reads.append(read)
        return Output(self.norm(x_BTD) @ table_VD.T, reads)


@torch.no_grad()
def initialise(model: Transformer, *, seed: int) -> None:
    """E ~ N(0, 0.02); keys uniform in +-1/sqrt(Q/2); linear layers uniform in +-1/sqrt(fan in); gains 1, biases 0.

    Every parameter draws from the stream of its own name, on the CPU: the same on every device, and shared bit for bit
    by two arms that share the parameter.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(stream_seed(seed, f"init/{name}"))
        drawn = torch.empty(parameter.shape)
        if name == "table.weight":
            drawn.normal_(0.0, 0.02, generator=generator)
        elif parameter.dim() == 1:
            drawn.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            bound = 1 / math.sqrt(parameter.shape[-1])  # fan in of a linear layer; Q/2 of the keys
            drawn.uniform_(-bound, bound, generator=generator)
        parameter.copy_(drawn)
