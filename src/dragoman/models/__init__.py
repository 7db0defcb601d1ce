"""Causal language models in this process: loading them, and the log-probs of given tokens."""

from dragoman.models.candidates import Candidates
from dragoman.models.fused import SliceLoss
from dragoman.models.loading import context_length, load_model, load_teacher, model_size
from dragoman.models.modes import evaluating
from dragoman.models.placing import teacher_device
from dragoman.models.scoring import TokenScorer
from dragoman.models.slices import TokenScores
from dragoman.models.spans import Span, SpanScores, score_spans

__all__ = [
    "Candidates",
    "SliceLoss",
    "Span",
    "SpanScores",
    "TokenScorer",
    "TokenScores",
    "context_length",
    "evaluating",
    "load_model",
    "load_teacher",
    "model_size",
    "score_spans",
    "teacher_device",
]
