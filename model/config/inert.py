"""Which keys change nothing in a configuration: neither a loss nor another measured quality. A search over such a key
compares equal runs.

`knowledge_num` and `knowledge_dim` are not among them for `memory: none`, whose width follows from them.
"""

from __future__ import annotations

from model.config.settings import Config, DataConfig

_ENTRIES = (
    "knowledge_length", "read", "kb_fit", "kb_init", "kb_layout", "ema_target", "ema_state", "cache_mib", "encode",
)  # fmt: skip
"""What matters only to entries of tokens."""

_BANK = (
    *_ENTRIES, "num_selected", "query_temperature", "ema", "ema_decay", "ema_update_freq", "ema_rescale",
    "freeze_ratio", "refresh", "refresh_after",
)  # fmt: skip
"""What matters only to a memory that reads a bank."""

_EMA = ("ema_decay", "ema_target", "ema_state", "cache_mib", "ema_rescale", "freeze_ratio")


def inert_keys(config: Config) -> dict[str, str]:
    """Dotted key -> why it has no effect: the value of another key."""
    model, train, data = config.model, config.train, config.data
    found: dict[str, str] = {}

    def note(*keys: str, because: str, section: str = "model") -> None:
        for key in keys:
            found.setdefault(f"{section}.{key}", because)

    memory = f"model.memory is {model.memory}"
    if not model.has_bank:
        note(*_BANK, because=memory)
        note("balance_loss_coef", because=memory, section="train")
        if model.memory != "blind":
            note("memory_heads", "read_norm", because=memory)
        if not model.has_rows:
            note("query_norm", because=memory)
            note("memory_lr_scale", because=memory, section="train")
    if model.memory != "ngram":
        note("ngram_rows", because=memory)
    if model.memory != "values":
        note("values_num", "values_heads", "values_selected", because=memory)
    if model.memory == "ngram":
        note("query_norm", because=memory)
    if not model.has_rows:
        note("memory_rows", because=memory)
    elif model.memory_rows == "frozen":
        note("memory_lr_scale", because="model.memory_rows is frozen", section="train")
    if model.memory == "none":
        note("memory_layers", because=memory)
    if model.memory == "vector":
        note(*_ENTRIES, because=memory)
    if model.memory != "hybrid":
        note("residual_dim", because=memory)
    if model.query_norm == "cosine":
        note("query_temperature", because="model.query_norm is cosine")
    if model.ema == "off":
        note(*_EMA, because="model.ema is off")
        if model.refresh == "none":
            note("ema_update_freq", because="model.ema is off")
    if model.ema_state == "requantized":
        note("cache_mib", because="model.ema_state is requantized")
    if model.refresh == "none":
        note("refresh_after", because="model.refresh is none")
    if model.kb_init == "random":
        note("kb_fit", "kb_layout", because="model.kb_init is random")
    if train.schedule == "cosine":
        note("decay_ratio", because="train.schedule is cosine", section="train")
    if data.corpus != "facts":
        because = f"data.corpus is {data.corpus}"
        facts = (name for name in DataConfig.model_fields if name.startswith("facts_"))
        note(*facts, because=because, section="data")
    return found
