"""Evaluation of text-video retrieval: metrics, and an evaluator over datasets."""

from .evaluator import EvaluationResult, evaluate
from .metrics import retrieval_metrics, retrieval_ranks

__all__ = ["EvaluationResult", "evaluate", "retrieval_metrics", "retrieval_ranks"]
