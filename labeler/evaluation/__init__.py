"""How good labels are: AP by the rules of COCO and LVIS, and precision and recall at score thresholds."""

from labeler.evaluation.average_precision import COCO, LVIS, LVIS_FIXED, Rules, Score, score
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.evaluate import evaluate_run
from labeler.evaluation.evaluation import Evaluation
from labeler.evaluation.results import evaluate_results
from labeler.truth.ground_truth import GroundTruth, parse_ground_truth, read_ground_truth

__all__ = [
    "COCO",
    "LVIS",
    "LVIS_FIXED",
    "DetectionTable",
    "Evaluation",
    "GroundTruth",
    "Rules",
    "Score",
    "evaluate_results",
    "evaluate_run",
    "parse_ground_truth",
    "read_ground_truth",
    "score",
]
