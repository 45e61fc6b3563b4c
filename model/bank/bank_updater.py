"""What happens to a bank besides being read: it is filled at the start, then updated by the EMA and the refresh."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.bank import ema, refresh
from model.bank.continuation import update_continuations
from model.bank.knowledge import BankInit, initial_bank
from model.bank.memory import Read
from model.bank.memory_bank import MemoryBank
from model.config import Config
from model.data import Fact
from model.data.tokenizer import Tokenizer


class BankUpdater:
    """Updates the bank after micro-batches; every rank calls it, after the optimiser's step where one falls there.

    `table_VD` and `sub_keys` (those of each layer that reads, first layer first) are the model's parameters.
    """

    def __init__(
        self,
        config: Config,
        bank: MemoryBank,
        *,
        table_VD: Tensor,
        sub_keys: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.config, self.bank, self.table_VD = config, bank, table_VD
        self.sub_keys, self.optimizer = sub_keys, optimizer
        self._ema = config.model.has_bank and config.model.ema == "on"
        self._refresh = config.model.has_bank and config.model.refresh == "frequency"

    def note(self, reads: list[Read]) -> None:
        """Count what a micro-batch selected."""
        if self._refresh:
            refresh.note(self.bank, reads)

    def due(self, step: int) -> bool:
        """Whether an update follows micro-batch `step`."""
        return (self._ema or self._refresh) and (step + 1) % self.config.model.ema_update_freq == 0

    @torch.no_grad()
    def update(self, step: int, reads: list[Read], *, targets_BT: Tensor) -> list[ema.UpdateStats]:
        """Run the EMA, then the refresh; return what the EMA did (nothing with `ema: off`). `targets_BT`: of the
        micro-batch, on any device."""
        stats, model, table_VD = [], self.config.model, self.table_VD
        if self._ema and model.ema_target == "continuation" and model.memory == "token":
            targets_BT = targets_BT.to(table_VD.device, non_blocking=True)
            found = update_continuations(self.bank, reads, targets_BT=targets_BT, table_VD=table_VD, config=model)
            stats.append(found)
        elif self._ema:
            stats.append(ema.update_bank(self.bank, reads, table_VD=table_VD, config=model))
        if self._refresh:
            refresh.refresh(
                self.bank,
                reads,
                sub_keys=self.sub_keys,
                table_VD=self.table_VD,
                optimizer=self.optimizer,
                config=self.config,
                step=step,
            )
        return stats

    def metrics(self) -> dict[str, int]:
        """Totals of the run, read at a report."""
        return {"subkeys_refreshed": int(self.bank.refreshed)} if self._refresh else {}


def fill_bank(bank: MemoryBank, config: Config, facts: tuple[Fact, ...], tokenizer: Tokenizer) -> BankInit | None:
    """Fill a bank with the knowledge base, then with random tokens. None where the bank stores no tokens."""
    if not config.model.stores_tokens:
        return None
    filled = initial_bank(config, facts, tokenizer)
    bank.tokens_NL.copy_(torch.from_numpy(filled.rows))
    return filled
