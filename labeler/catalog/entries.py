"""The catalog: every figure here was published by others; what was reproduced with labeler names its file."""

from __future__ import annotations

from labeler.catalog.entry import Figure, KnownModel

COCO, LVIS, LVIS_VAL = "coco", "lvis-minival", "lvis-val"
_APACHE = "Apache-2.0"
_GDINO = "https://arxiv.org/abs/2303.05499"
_GDINO_REPOSITORY = "https://github.com/IDEA-Research/GroundingDINO"
_MMDET = "https://github.com/open-mmlab/mmdetection/blob/main/configs/mm_grounding_dino/README.md"
_MMDET_DOCS = "https://huggingface.co/docs/transformers/model_doc/mm-grounding-dino"
_LLMDET = "https://arxiv.org/abs/2501.18954"
_OWLV2 = "https://github.com/huggingface/transformers/pull/41938"
_ZERO_SHOT = "zero-shot, val2017, 800 x 1333, one caption"
_MINIVAL = "zero-shot, Fixed AP"
_TRAINED = "trained on COCO, val2017"
_GDINO_GFLOP = (1064.0, 12600.0)  # Swin-T at 800 x 1333; 1 and 15 chunks


def _grounding(
    model: str, *figures: Figure, model_type: str = "mm-grounding-dino", tiny: bool = True, note: str = ""
) -> KnownModel:
    return KnownModel(model, model_type, _APACHE, (1, 15), _GDINO_GFLOP if tiny else None, figures, note)


def _closed(
    model: str, model_type: str, *figures: Figure, gflop: float | None = None, licence: str = _APACHE, note: str = ""
) -> KnownModel:
    """Of one pass, whatever the names are; their licenses were not read at their source."""
    uncertain = ("licence",)
    return KnownModel(model, model_type, licence, (1, 1), (gflop, gflop) if gflop else None, figures, note, uncertain)


def _trained(ap: float, source: str, *, uncertain: bool = True) -> Figure:
    return Figure(COCO, ap, _TRAINED, source, uncertain)


ENTRIES = (
    _grounding(
        "IDEA-Research/grounding-dino-tiny",
        Figure(COCO, 48.4, _ZERO_SHOT, _GDINO),
        Figure(LVIS, 28.8, f"{_MINIVAL}, MMDetection's evaluation of these weights", _MMDET),
        model_type="grounding-dino",
    ),
    _grounding(
        "IDEA-Research/grounding-dino-base",
        Figure(COCO, 56.7, "COCO is in its training data, val2017", _GDINO_REPOSITORY),
        model_type="grounding-dino",
        tiny=False,
    ),
    _grounding(
        "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
        Figure(COCO, 50.6, _ZERO_SHOT, _MMDET_DOCS),
        Figure(LVIS, 40.5, _MINIVAL, _MMDET_DOCS),
    ),
    _grounding(
        "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_grit_v3det",
        Figure(COCO, 50.4, _ZERO_SHOT, _MMDET),
        Figure(LVIS, 41.4, _MINIVAL, _MMDET),
    ),
    _grounding("iSEE-Laboratory/llmdet_tiny", Figure(LVIS, 44.7, _MINIVAL, _LLMDET)),
    _grounding("iSEE-Laboratory/llmdet_base", Figure(LVIS, 48.3, _MINIVAL, _LLMDET), tiny=False),
    _grounding(
        "iSEE-Laboratory/llmdet_large",
        Figure(LVIS, 51.1, _MINIVAL, _LLMDET),
        tiny=False,
        note="52.4 is published with 80 names per chunk",
    ),
    KnownModel(
        "google/owlv2-base-patch16-ensemble",
        "owlv2",
        _APACHE,
        (1, 1),
        (1106.0, 1110.0),
        note=f"44.0 on LVIS by transformers with 7 templates is published for an OWLv2 checkpoint: {_OWLV2}",
    ),
    KnownModel("google/owlv2-large-patch14-ensemble", "owlv2", _APACHE, (1, 1), (5812.0, 5821.0)),
    KnownModel("google/owlvit-base-patch32", "owlvit", _APACHE, (1, 1)),
    KnownModel(
        "facebook/sam3",
        "sam3_video",
        "SAM License, gated",
        (80, 1203),
        (27642.0, 336861.0),
        (
            Figure(COCO, 56.4, "boxes", "SAM 3's paper", uncertain=True),
            Figure(LVIS_VAL, 53.6, "boxes", "SAM 3's paper", uncertain=True),
        ),
        note="also makes masks: masks.model",
    ),
    _closed(
        "PekingU/rtdetr_r50vd",
        "rt_detr",
        _trained(53.1, "https://arxiv.org/abs/2304.08069"),
        gflop=137.0,
    ),
    _closed("PekingU/rtdetr_v2_r50vd", "rt_detr_v2"),
    _closed("ustc-community/dfine-xlarge-coco", "d_fine"),
    _closed(
        "Intellindust/DEIMv2_HGNetv2_N_COCO",
        "deimv2",
        note="those with a DINOv3 backbone are under Meta's DINOv3 License",
    ),
    _closed("Roboflow/rf-detr-base", "rf_detr"),
    _closed("AnnaZhang/lwdetr_small_60e_coco", "lw_detr", _trained(48.0, "https://arxiv.org/abs/2406.03459")),
    _closed("hustvl/yolos-base", "yolos"),
    _closed(
        "facebook/detr-resnet-50",
        "detr",
        _trained(42.0, "https://arxiv.org/abs/2005.12872"),
        note="its usual revision needs timm; model.revision=no_timm does not",
    ),
)
