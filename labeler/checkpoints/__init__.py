"""Find a checkpoint: a Hub ID, a local folder or an object-storage URL becomes a checked local folder."""

from labeler.checkpoints.contents import Checkpoint, digest_of, image_processor_config, model_config
from labeler.checkpoints.detector import DetectorCheckpoint, resolve
from labeler.checkpoints.files import IMAGE_PROCESSOR, TOKENIZER
from labeler.checkpoints.located import Located, locate, model_uri
from labeler.checkpoints.stored import cache_folder

__all__ = [
    "IMAGE_PROCESSOR",
    "TOKENIZER",
    "Checkpoint",
    "DetectorCheckpoint",
    "Located",
    "cache_folder",
    "digest_of",
    "image_processor_config",
    "locate",
    "model_config",
    "model_uri",
    "resolve",
]
