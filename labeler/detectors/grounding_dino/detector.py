"""Grounding DINO as a detector in a program: a checkpoint and a vocabulary, and every option by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from labeler import checkpoints
from labeler.checkpoints import DetectorCheckpoint
from labeler.config import DetectConfig, ModelConfig
from labeler.config_values import validate
from labeler.detectors.batched import BatchedDetector
from labeler.errors import Refused
from labeler.prompts.families import DEFAULT
from labeler.prompts.grounding_dino import MAX_TOKENS, Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

_DETECT, _MODEL = DetectConfig(), ModelConfig()  # the options' defaults


class GroundingDino(BatchedDetector):
    """A loaded Grounding DINO, MM-Grounding-DINO or LLMDet checkpoint with its vocabulary.

    `prepare` may be called by many threads; the other methods by one at a time.

    Attributes:
        prompts: the chunks it looks for.
        device, dtype: what is really used.
        engine_check: in words, how the engine compares with transformers' own forward pass.
    """

    def __init__(
        self,
        model: str | Path | DetectorCheckpoint,
        vocabulary: Vocabulary | Prompts | str | Sequence[str],
        *,
        revision: str | None = None,
        device: str = _MODEL.device,
        dtype: str = _MODEL.dtype,
        engine: str = _MODEL.engine,
        score_floor: float | None = _DETECT.score_floor,
        max_detections: int = _DETECT.max_detections,
        assignment: str = _DETECT.assignment,
        score: str = _DETECT.score,
        nms_iou: float = _DETECT.nms_iou,
        image_size: tuple[int, int] | None = None,
        resize: str = _DETECT.resize,
        jpeg_draft: bool = _DETECT.jpeg_draft,
        pairs_per_batch: int | None = _DETECT.pairs_per_batch,
        cuda_graphs: bool | Literal["auto"] = _DETECT.cuda_graphs,
        threads: int | None = None,
    ) -> None:
        """Load the model and encode the vocabulary, once.

        Args:
            model: Hub ID, local folder or URL, as `checkpoints.resolve` takes it, or what that returned:
                then the weights are not read for a digest again.
            vocabulary: a vocabulary, its packed prompts, or whatever `Vocabulary.load` takes.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            dtype: "auto" (float16 on a GPU, float32 on a CPU), "float32", "float16" or "bfloat16", for the matrix
                products; coordinates are always float32.
            engine: "fast", "transformers" (its own modules throughout, the reference), or "auto": fast where the model
                is understood and one image comes out equal, else transformers with a warning.
            score_floor: detections below are not returned, 0 to 1; None for the family's 0.05.
            max_detections: per image, the best; 0 for no cap.
            assignment: "argmax" (a query is one category) or "flattened" (every query and category that reach the
                floor, of each chunk at most as many as the larger of queries and `max_detections`).
            score: "mean" or "max" over a phrase's tokens.
            nms_iou: overlap above which the worse of two boxes of one category is dropped; 1 for no suppression.
            image_size: (shortest, longest) edge in pixels instead of the checkpoint's own.
            resize: "pillow", equal to the checkpoint's own processor, or "torch", faster and up to one level off.
            jpeg_draft: whether large JPEGs may be decoded at 1/2, 1/4 or 1/8, see `least_shape`.
            pairs_per_batch: None for 1 on a CPU, and on a GPU what a trial at the start finds fastest.
            cuda_graphs: whether shapes that come often are recorded and replayed on a GPU, as far as that comes out
                equal; "auto": where a trial at the start finds it faster. Only the fast engine can be.
            threads: torch's threads on a CPU; None leaves them.

        Raises:
            Refused: anything wrong with the model, the vocabulary or the arguments, in one line.
        """
        where = "GroundingDino"
        edges = None if image_size is None else {"shortest_edge": image_size[0], "longest_edge": image_size[1]}
        options = {
            "score_floor": score_floor,
            "max_detections": max_detections,
            "assignment": assignment,
            "score": score,
            "nms_iou": nms_iou,
            "image_size": edges,
            "resize": resize,
            "jpeg_draft": jpeg_draft,
            "pairs_per_batch": pairs_per_batch,
            "cuda_graphs": cuda_graphs,
        }
        detect = validate(DetectConfig, options, (), where=where)
        placed = validate(ModelConfig, {"device": device, "dtype": dtype, "engine": engine}, (), where=where)
        if not isinstance(model, DetectorCheckpoint):
            model = checkpoints.resolve(model, revision=revision)
        if model.family != DEFAULT:
            raise Refused(f"checkpoint {model.name} is of the family {model.family.name}; GroundingDino loads its own")
        self.prompts = _prompts(vocabulary, model)
        super().__init__(model, self.prompts, model=placed, detect=detect, threads=threads)


def _prompts(vocabulary: Vocabulary | Prompts | str | Sequence[str], checkpoint: DetectorCheckpoint) -> Prompts:
    if isinstance(vocabulary, Prompts):
        return vocabulary
    loaded = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.load(vocabulary)
    return pack(loaded, Tokenizer.load(checkpoint.folder), max_tokens=min(MAX_TOKENS, _longest(checkpoint)))


def _longest(checkpoint: DetectorCheckpoint) -> int:
    """Return tokens that the model reads of a prompt; transformers' default where its config does not say."""
    found = checkpoints.Located(checkpoint.folder, checkpoint.name, checkpoint.revision)
    return int(checkpoints.model_config(found).get("max_text_len", MAX_TOKENS))
