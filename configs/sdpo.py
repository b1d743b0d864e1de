"""Self-distillation policy optimisation (arXiv 2601.20802) with Qwen3: the teacher reads a sibling that succeeded.

    python -m rcsd_jax.train --config=configs/sdpo.py --workdir=runs/sdpo --config.data.path=medmcqa.parquet

The data must have answers that rules can grade, or nobody knows which sibling succeeded.
Cost: 100 steps of 32 questions with 8 answers of up to 4,096 new tokens, eight times the tokens of an RCSD run.
Keys and values of 8B are 147 kB a token, 155 GB for the 256 answers at their longest: share them out over at least four
devices of 80 GB, or lower train.questions.
Numbers to expect: none published for this base and these benchmarks.
"""

from configs import rcsd


def get_config():
    """The published defaults of SDPO: JSD 0.5 on the student's top 100 and a tail, EMA rate 0.05, importance cap 2."""
    config = rcsd.get_config()
    config.name = "sdpo"
    config.description = "SDPO: the teacher reads another answer of the student that was right"
    config.data.source = "medmcqa"
    config.rubrics.source = "none"
    config.teacher.context, config.teacher.solutions = ("solution",), "sibling"
    config.teacher.weights.kind, config.teacher.weights.ema_decay = "ema", 0.95
    config.prompts.teacher_lengths = (1024, 2048, 4096, 6144)  # a question and a whole answer
    config.divergence.update(kind="jsd", beta=0.5, support="student", top_k=100, tail=True, importance_cap=2.0)
    config.sampling.update(temperature=1.0, top_p=1.0, top_k=0)
    config.train.samples = 8
    config.train.micro_batches = 8
    return config
