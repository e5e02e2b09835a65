"""The configuration of a labeling run: frozen models, read from YAML plus overrides; unknown keys are rejected.

The text below each key is its description in docs/reference/configuration.md.
"""

from labeler.config.detection import DetectConfig, ImageSize
from labeler.config.execution import RayConfig, UnitConfig
from labeler.config.loading import config_of_run, load_config, make_config
from labeler.config.model import ModelConfig, NamesConfig, PromptsConfig
from labeler.config.places import InputConfig, OutputConfig
from labeler.config.second_models import MasksConfig, RescoreConfig
from labeler.config.section import OF_FAMILY, OF_LABELER, OF_TILES, ROWS, S3Config, Section, marked
from labeler.config.whole import MOST_PAIRS, RECOMMENDED_MODELS, Config, changed, of_families

__all__ = [
    "MOST_PAIRS",
    "OF_FAMILY",
    "OF_LABELER",
    "OF_TILES",
    "RECOMMENDED_MODELS",
    "ROWS",
    "Config",
    "DetectConfig",
    "ImageSize",
    "InputConfig",
    "MasksConfig",
    "ModelConfig",
    "NamesConfig",
    "OutputConfig",
    "PromptsConfig",
    "RayConfig",
    "RescoreConfig",
    "S3Config",
    "Section",
    "UnitConfig",
    "changed",
    "config_of_run",
    "load_config",
    "make_config",
    "marked",
    "of_families",
]
