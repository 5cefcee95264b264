"""How good a segmentation is, and whether one run is better than another."""

from nnunet_wsl.evaluation.compare import Comparison, ComparisonRow, compare_runs
from nnunet_wsl.evaluation.evaluate import evaluate_folders
from nnunet_wsl.evaluation.objects import ScoredLabels, ScoredObject
from nnunet_wsl.evaluation.run import METRICS, CaseScores, Metric, Run
from nnunet_wsl.evaluation.scores import ObjectScores, SurfaceMetrics, score_label_maps, surface_metrics
from nnunet_wsl.evaluation.statistics import bootstrap_interval, paired_p_value
from nnunet_wsl.evaluation.surface import SurfaceDistances, surface_distances

__all__ = [
    "METRICS",
    "CaseScores",
    "Comparison",
    "ComparisonRow",
    "Metric",
    "ObjectScores",
    "Run",
    "ScoredLabels",
    "ScoredObject",
    "SurfaceDistances",
    "SurfaceMetrics",
    "bootstrap_interval",
    "compare_runs",
    "evaluate_folders",
    "paired_p_value",
    "score_label_maps",
    "surface_distances",
    "surface_metrics",
]
