"""A process of tests/model/test_variants.py: `python -m tests.model.rank_worker RANK WORLD MEETING OUT`.

It updates a bank three times from this rank's share of a batch, variant after variant, and writes what it holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.bank import BankUpdater
from tests.model.test_training import small

VARIANTS = {
    "token": {},
    "vector": {"model__memory": "vector"},
    "hybrid": {"model__memory": "hybrid", "model__ema_rescale": "match_norm"},
    "sparse_cache": {"model__ema_state": "sparse_cache", "model__encode": "cosine"},
    "refresh": {"model__memory": "hybrid", "model__refresh": "frequency", "model__refresh_after": 1},
}


def main(rank: int, world: int, meeting: Path, out: Path) -> None:
    """Write OUT/VARIANT.safetensors: the bank, and the keys that a refresh may move."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    from model.transformer import Transformer, initialise

    for name, overrides in VARIANTS.items():
        config = small(**overrides, model__ema_update_freq=1)
        model = Transformer(config.model)
        initialise(model, seed=2)
        if config.model.stores_tokens:
            model.bank.tokens_NL.random_(0, 512, generator=torch.Generator().manual_seed(0))
        model.double()
        updater = BankUpdater(
            config,
            model.bank,
            table_VD=model.table.weight,
            sub_keys=model.sub_keys,
            optimizer=torch.optim.AdamW(model.parameters()),
        )
        for step in range(3):
            ids_BT = torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(step))
            reads = model(ids_BT.chunk(world)[rank]).reads
            updater.note(reads)
            updater.update(step, reads, targets_BT=ids_BT)
        kept = {key: value for key, value in model.state_dict().items() if "bank" in key or "keys" in key}
        save_file(kept, out / f"{name}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
