"""Every setting of a run, as one frozen model that refuses unknown keys and impossible values.

The defaults are the reference recipe for FLUX.1-dev with HPSv2.1 (arXiv:2509.06942, its public configuration); a YAML
file in `configs/` says what a run does differently.
"""

from srpo.config.base import Range, Settings
from srpo.config.images import ImagesConfig
from srpo.config.judgement import DAMAGE_BOUNDS, Bound, EvaluationConfig, MonitorConfig, RegistryConfig, ScoreConfig
from srpo.config.load import load_config, parse_config, with_overrides
from srpo.config.method import (
    AlignConfig,
    DirectAlignMethod,
    DraftLvMethod,
    PlainMethod,
    PreferenceConfig,
    ReflMethod,
    RolloutConfig,
    SrpoMethod,
)
from srpo.config.notify import NotifyConfig
from srpo.config.resources import ResourcesConfig
from srpo.config.rewards import AddedReward
from srpo.config.run import RunConfig
from srpo.config.storage import StorageConfig
from srpo.config.training import LoraConfig, TrainConfig
from srpo.config.world import ModelConfig, PromptsConfig, RewardConfig, WeightsFormat
