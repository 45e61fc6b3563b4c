"""What one training run is: keys, types, defaults, presets and rules; checks before a start; seeds of random streams;
the installation that trains it.

Imports no torch, so a plan costs no start-up time.
"""

from model.config.inert import inert_keys
from model.config.installation import cache_dir, code_hash
from model.config.launch import (
    ALLOCATOR_VARIABLES,
    EXPANDABLE,
    check_packages,
    check_processes,
    check_ranks,
    deepspeed_config,
)
from model.config.overrides import (
    KEYS,
    PATH_KEYS,
    as_first_released,
    check_key,
    explain,
    from_json,
    missing_files,
    nearest,
    override,
    read_overrides,
    resolve,
    value_of,
)
from model.config.presets import PRESETS
from model.config.row_memories import (
    NGRAM_HEADS,
    NGRAM_ORDERS,
    frozen_numbers,
    ngram_primes,
    row_memory,
    untouched_numbers,
)
from model.config.seeding import reseeded, stream_seed
from model.config.settings import LATER_KEYS, Config, ConfigError, DataConfig, Memory, ModelConfig, TrainConfig

__all__ = [
    "ALLOCATOR_VARIABLES", "EXPANDABLE", "KEYS", "LATER_KEYS", "NGRAM_HEADS", "NGRAM_ORDERS",
    "PATH_KEYS", "PRESETS", "Config", "ConfigError", "DataConfig", "Memory", "ModelConfig", "TrainConfig",
    "as_first_released", "cache_dir", "check_key", "check_packages", "check_processes", "check_ranks", "code_hash",
    "deepspeed_config", "explain", "from_json", "frozen_numbers", "inert_keys", "missing_files", "nearest",
    "ngram_primes", "override", "read_overrides", "reseeded", "resolve", "row_memory", "stream_seed",
    "untouched_numbers", "value_of",
]  # fmt: skip
