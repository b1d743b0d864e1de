"""Evaluation: is an answer right, how sure is a number, and is one method better than another.

``answers`` finds and grades final answers (``grade``; never evaluates model text). ``results`` keeps one
``EvaluationRecord`` a question (``grade_samples``, ``write_records``, ``read_records``) and makes metrics of them
(``per_question``, ``summarise``, ``pooled``, ``accuracy_by_source``, ``met_by_criterion``). ``statistics`` puts
intervals on means and tests two methods on the same questions (``paired_test``). How a criterion is checked is the
caller's to say.
"""

from rcsd_jax.evaluation.answers import Extracted, Grade, extract, grade, strip_thinking
from rcsd_jax.evaluation.results import (
    EvaluationRecord,
    accuracy_by_source,
    grade_samples,
    is_rate,
    met_by_criterion,
    per_question,
    pooled,
    read_records,
    summarise,
    write_records,
)
from rcsd_jax.evaluation.statistics import (
    Interval,
    PairedTest,
    holm,
    majority_at_k,
    mean_interval,
    paired_test,
    pass_at_k,
    rate_interval,
)

__all__ = [
    "EvaluationRecord",
    "Extracted",
    "Grade",
    "Interval",
    "PairedTest",
    "accuracy_by_source",
    "extract",
    "grade",
    "grade_samples",
    "holm",
    "is_rate",
    "majority_at_k",
    "mean_interval",
    "met_by_criterion",
    "paired_test",
    "pass_at_k",
    "per_question",
    "pooled",
    "rate_interval",
    "read_records",
    "strip_thinking",
    "summarise",
    "write_records",
]
