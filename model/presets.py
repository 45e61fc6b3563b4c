"""Named starting points of a configuration, as dotted keys. `tiny` is for two CPU cores; `seed-1.4.6` is the source."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Two CPU cores, seconds a trial.
    "tiny": {
        "model.dim": 128,
        "model.n_layers": 2,
        "model.n_heads": 4,
        "model.vocab_size": 2_048,
        "model.max_seq_len": 64,
        "model.knowledge_num": 1_024,
        "model.knowledge_length": 8,
        "model.knowledge_dim": 64,
        "model.num_selected": 8,
        "train.lr": 3e-3,
        "train.warmup_ratio": 0.05,
        "train.batch_size": 8,
        "train.tokens": 204_800,
        "train.balance_loss_coef": 0.01,
        "train.report_every": 40,
        "eval.val_tokens": 8_192,
        "eval.fact_probes": 64,
        "data.facts_entities": 64,
    },
    # Every value of the source's tables: experiment 1.4.6, one RTX 4090.
    "seed-1.4.6": {
        "model.dim": 512,
        "model.n_layers": 8,
        "model.n_heads": 32,
        "model.vocab_size": 6_400,
        "model.max_seq_len": 512,
        "model.knowledge_num": 1_048_576,
        "model.knowledge_length": 8,
        "model.knowledge_dim": 128,
        "model.num_selected": 16,
        "model.query_norm": "none",
        "model.read_norm": "none",
        "model.ema_decay": 0.9,
        "model.ema_update_freq": 5,
        "model.freeze_ratio": 0.0,
        "model.kb_fit": "head",
        "train.lr": 2e-4,
        "train.schedule": "cosine",
        "train.batch_size": 48,
        "train.accumulation_steps": 12,
        "train.grad_clip": 1.0,
        "train.epochs": 3,
        "train.precision": "auto",
        "train.balance_loss_coef": 0.1,
        "train.report_every": 100,
        "train.checkpoint_every": 10,
        "data.corpus": "jsonl",
        "eval.every": 10,
        "eval.val_tokens": 262_144,
        "eval.val_batch_size": 48,
        "eval.prompts": 64,
        "eval.prompt_tokens": 30,
        "eval.new_tokens": 100,
    },
}
