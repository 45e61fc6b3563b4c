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
    LATER_KEYS,
    PATH_KEYS,
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
from model.config.seeding import reseeded, stream_seed
from model.config.settings import Config, ConfigError, DataConfig, Memory, ModelConfig, TrainConfig

__all__ = [
    "ALLOCATOR_VARIABLES", "EXPANDABLE", "KEYS", "LATER_KEYS", "PATH_KEYS", "PRESETS", "Config", "ConfigError",
    "DataConfig", "Memory", "ModelConfig", "TrainConfig", "cache_dir", "check_key", "check_packages", "check_processes",
    "check_ranks", "code_hash", "deepspeed_config", "explain", "from_json", "inert_keys", "missing_files", "nearest",
    "override", "read_overrides", "reseeded", "resolve", "stream_seed", "value_of",
]  # fmt: skip
