"""Evaluation of text-video retrieval: metrics, an evaluator over datasets, and labelled post-processing of scores."""

from .evaluator import EvaluationResult, evaluate
from .metrics import bootstrap_intervals, cmc_curve, retrieval_metrics, retrieval_ranks
from .post_processing import QueryBank, dual_softmax, qb_norm

__all__ = [
    "EvaluationResult",
    "QueryBank",
    "bootstrap_intervals",
    "cmc_curve",
    "dual_softmax",
    "evaluate",
    "qb_norm",
    "retrieval_metrics",
    "retrieval_ranks",
]
