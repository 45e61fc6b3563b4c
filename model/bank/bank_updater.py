"""What happens to a bank besides being read: filled at the start, kept up by the EMA and the refresh."""

from __future__ import annotations

import torch

from model.bank import ema, knowledge, refresh
from model.bank.memory import Read
from model.config.resolve import Config
from model.data.facts import Fact
from model.data.tokenizer import Tokenizer
from model.transformer import Transformer


class Upkeep:
    """Called after every micro-batch, after the optimiser's step where one falls there; on every rank."""

    def __init__(self, config: Config, model: Transformer, optimizer: torch.optim.Optimizer) -> None:
        self.config, self.model, self.optimizer = config, model, optimizer
        self._ema = config.model.has_bank and config.model.ema == "on"
        self._refresh = config.model.has_bank and config.model.refresh == "frequency"

    def note(self, reads: list[Read]) -> None:
        """Count what a micro-batch selected."""
        if self._refresh:
            refresh.note(self.model, reads)

    def due(self, step: int) -> bool:
        """Whether an update follows micro-batch `step`."""
        return (self._ema or self._refresh) and (step + 1) % self.config.model.ema_update_freq == 0

    @torch.no_grad()
    def update(self, step: int, reads: list[Read]) -> list[ema.UpdateStats]:
        """The EMA, then the refresh; what the EMA did (nothing with `ema: off`)."""
        stats = []
        if self._ema:
            stats.append(
                ema.update_bank(self.model.bank, reads, table_VD=self.model.table.weight, config=self.config.model)
            )
        if self._refresh:
            refresh.refresh(self.model, self.optimizer, reads, config=self.config, step=step)
        return stats

    def metrics(self) -> dict[str, int]:
        """Totals of the run; read at a report."""
        return {"subkeys_refreshed": int(self.model.bank.refreshed)} if self._refresh else {}


def fill_bank(
    model: Transformer, config: Config, facts: tuple[Fact, ...], tokenizer: Tokenizer
) -> knowledge.BankInit | None:
    """The first tokens of a bank: the knowledge base, then random ones. None where no tokens are stored."""
    if not config.model.stores_tokens:
        return None
    filled = knowledge.initial_bank(config, facts, tokenizer)
    model.bank.tokens_NL.copy_(torch.from_numpy(filled.rows))
    return filled
