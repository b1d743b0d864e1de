"""What one run is: a frozen record for every part of it, with the defaults."""

from __future__ import annotations

import dataclasses

from rcsd_jax import data, judges, learning, lm, sharding


@dataclasses.dataclass(frozen=True)
class Model:
    """Where the weights come from, how they are computed, and which of them learn.

    ``source`` is a Hugging Face folder or hub id, or "science": a new model of ``science`` shape with the tokenizer
    of the science world. ``trainable`` is "params" (all weights) or "lora" (adapters; ``lora`` says which).
    """

    source: str = "science"
    trainable: str = "params"
    lora: lm.LoraConfig = lm.LoraConfig()
    compute: lm.Compute = lm.Compute()
    science: ScienceModel = dataclasses.field(default_factory=lambda: ScienceModel())


@dataclasses.dataclass(frozen=True)
class ScienceModel:
    """The shape of the model that is trained from scratch on the science world."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 3
    head_width: int = 32
    mlp_width: int = 512


@dataclasses.dataclass(frozen=True)
class Data:
    """Which problems. ``source`` is "science" or a reader's name (``data.READERS``); ``path`` is its file.

    ``split`` names the questions to train on or to write rubrics for. The science world has its splits built in;
    a file is divided by a hash of the question into "train", "rubric" and "eval" with the shares of
    ``eval_share`` and ``rubric_share``. ``limit`` keeps the first questions of the split (0: all).
    ``max_bad_rows`` rows of a file may be unreadable; they are left out.
    """

    source: str = "science"
    path: str = ""
    split: str = "train"
    limit: int = 0
    eval_share: float = 0.1
    rubric_share: float = 0.0
    max_bad_rows: int = 0
    science: data.science.ScienceConfig = data.science.ScienceConfig()
    pretraining: data.science.PretrainingConfig = data.science.PretrainingConfig()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """How problems become tokens. Thinking is "on", "off" or "default" (what the chat template does unasked).

    ``student_lengths`` and ``teacher_lengths`` are the bucket lengths that prompts are padded to; a question whose
    prompt exceeds the last one is dropped before training and counted, never cut. ``judge_lengths`` are for a model
    that judges itself: a request holds question, rubric and answer; if it is too long, the judgement has failed.
    """

    wording: str = "standard"
    profile: str = "paper"
    student_thinking: str = "default"
    teacher_thinking: str = "default"
    analyst_thinking: str = "off"
    writer_thinking: str = "off"
    judge_thinking: str = "off"
    student_lengths: tuple[int, ...] = (256, 512, 1024)
    teacher_lengths: tuple[int, ...] = (512, 1024, 2048)
    judge_lengths: tuple[int, ...] = (1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Rubrics:
    """Which rubric the teacher reads: ``source``, then perturbed by ``control`` (see ``rubrics.CONTROLS``).

    "cache" reads the file ``path`` that ``write_rubrics`` made. The controls draw from ``config.seed``: "noisy"
    replaces a word with probability ``noise_rate``, "reduced" keeps ``keep`` criteria, "dropped" drops one with
    ``drop_probability``. ``retries`` is how often an invalid rubric is sampled again with a fresh seed before it is
    dropped.
    """

    source: str = "ground_truth"
    path: str = ""
    control: str = "as_is"
    noise_rate: float = 0.3
    keep: int = 3
    drop_probability: float = 0.5
    retries: int = 1
    min_criteria: int = 3
    max_criteria: int = 25


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What the teacher knows (``context``: any of reference, solution, rubric) and which weights it has.

    With ``weights.kind`` "separate" they are those of another model, ``source``: a Hugging Face folder or hub id, with
    the student's tokenizer. They lie on the same mesh, and never change.

    ``solutions`` are those of the "data", or for each completion another one of the same question, a "sibling" that
    earned more than ``reward.threshold`` (SDPO); completions without one do not count. ``contrast`` c > 0 takes out
    what any rubric does: log-probabilities are (1 + c) those with the rubric less c those with another question's.
    With ``reason_first`` the teacher first writes an analysis of its context, sampled as ``analysis`` says.
    """

    context: tuple[str, ...] = ("rubric",)
    source: str = ""
    solutions: str = "data"
    contrast: float = 0.0
    reason_first: bool = False
    analysis: lm.SamplingConfig = lm.SamplingConfig(temperature=0.7, top_p=0.95, max_new_tokens=1024)
    weights: learning.TeacherConfig = learning.TeacherConfig()


@dataclasses.dataclass(frozen=True)
class Reward:
    """What a completion earns. "accuracy": 1 for the right final answer, else 0. "rubric": what a judge finds of its
    question's ground-truth rubric, by ``scale``: "explicit" asks for every criterion and takes the share of the weight
    that is met (``judges.explicit``), "quoted" does the same and wants words of the answer as evidence, "implicit" asks
    for one score. ``weights``, but of the implicit scale, are the rubric's "integers" or those of the "categories"
    Essential 1, Important 0.7, Optional 0.3 and Pitfall 0.9. Objective
    "best_of_n" keeps the best completion of a question if it earns more than ``threshold``.

    ``judge`` is a "program" (the science world has one), the model "self" (with the teacher's weights, or else those
    that training began with; replies drawn as ``sampling`` says), or an "endpoint". A reply that is no verdict is asked
    for again, ``attempts`` times in all; then the judgement has failed, and the completion counts for nothing, also
    not in the mean of its group. A run stops where more than ``max_failed`` of a rollout's judgements have failed.
    """

    kind: str = "accuracy"
    scale: str = "explicit"
    weights: str = "integers"
    threshold: float = 0.6
    judge: str = "program"
    attempts: int = 2
    max_failed: float = 0.2
    sampling: lm.SamplingConfig = lm.SamplingConfig(temperature=0.0, max_new_tokens=512)
    endpoint: judges.EndpointConfig = judges.EndpointConfig()


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop: how many steps, how much a step.

    ``questions`` and ``samples`` count what a rollout samples, and ``updates_per_rollout`` steps learn from it;
    ``rows`` of ``row_length`` tokens make an SFT step. A run stops after ``max_skipped`` steps in a row that are not
    finite, or whose gradient exceeds ``optimizer.skip_grad_norm``. Of the checkpoints, one every ``checkpoint_every``
    steps, the last two stay, and those at multiples of ``keep_every`` (0: no other). Every ``trajectories_every`` steps
    the first rollouts of a step are kept as text. ``completion_lengths`` are bucket lengths: where all completions of a
    step are short, what scores them and learns from them is compiled for the next of these lengths instead of
    ``sampling.max_new_tokens``. Of the questions of a rollout ``sampling_batch`` (0: all) are sampled at a time; those
    that end make room for others, so that one long completion does not hold them all.

    With ``staleness`` 1 a rollout is sampled by the weights that the step before it begins with, and judged while that
    step learns and the next rollout is sampled: nobody waits for a slow judge, and losses correct for the older
    weights. A checkpoint holds the rollout that was sampled ahead.
    """

    steps: int = 100
    questions: int = 32
    samples: int = 1
    updates_per_rollout: int = 1
    staleness: int = 0
    rows: int = 32
    row_length: int = 1024
    micro_batches: int = 1
    checkpoint_every: int = 50
    keep_every: int = 0
    max_skipped: int = 5
    trajectories_every: int = 10
    completion_lengths: tuple[int, ...] = ()
    sampling_batch: int = 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured: ``samples`` at ``sampling``, and one greedy answer, on every split of ``splits``.

    ``context`` puts teacher guidance in the prompt: that is not the method but its ceiling. Every ``every`` steps of
    training (0: only at its end) the same is asked, for curve.json.
    """

    splits: tuple[str, ...] = ("eval",)
    limit: int = 0
    batch: int = 64
    every: int = 0
    samples: int = 4
    greedy: bool = True
    context: tuple[str, ...] = ()
    tolerance: float = 0.01
    sampling: lm.SamplingConfig = lm.SamplingConfig()


@dataclasses.dataclass(frozen=True)
class Writers:
    """Where numbers go besides metrics.jsonl."""

    tensorboard: bool = True
    wandb_project: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run. ``task`` is what the student writes: an "answer" (stage 2) or a "rubric" (stage 1)."""

    name: str = "run"
    description: str = ""
    seed: int = 0
    task: str = "answer"
    objective: str = "distill"
    examples: str = "solutions"
    model: Model = Model()
    data: Data = Data()
    prompts: Prompts = Prompts()
    rubrics: Rubrics = Rubrics()
    teacher: Teacher = Teacher()
    sampling: lm.SamplingConfig = lm.SamplingConfig()
    divergence: learning.DivergenceConfig = learning.DivergenceConfig(temperature=None)
    policy: learning.PolicyConfig = learning.PolicyConfig()
    gates: learning.Gates = learning.Gates()
    reward: Reward = Reward()
    optimizer: learning.OptimizerConfig = learning.OptimizerConfig()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    writers: Writers = Writers()
    mesh: sharding.MeshConfig = sharding.MeshConfig()

    @property
    def loss(self) -> learning.LossConfig:
        """What the objective is told."""
        temperature, divergence = self.sampling.temperature, self.divergence
        if divergence.temperature is None:
            divergence = dataclasses.replace(divergence, temperature=temperature or 1.0)  # greedy tokens have none
        return learning.LossConfig(divergence, self.policy, self.gates, temperature)

    @property
    def older_weights(self) -> learning.TeacherConfig:
        """Which weights are kept beside the student's: the teacher's, or the base for a KL penalty or as a judge."""
        if self.objective in learning.TAUGHT:
            return self.teacher.weights
        return learning.TeacherConfig("base" if self.has_kl_penalty or self.judges_itself else "live")

    @property
    def is_rewarded(self) -> bool:
        """Whether completions earn something: for the objective, or to find out which of them succeeded."""
        needs_siblings = self.objective in learning.TAUGHT and self.teacher.solutions == "sibling"
        return self.objective in learning.REWARDED or needs_siblings

    @property
    def judges_itself(self) -> bool:
        """Whether the model's older weights judge what it writes."""
        return self.is_rewarded and self.reward.kind == "rubric" and self.reward.judge == "self"

    @property
    def has_kl_penalty(self) -> bool:
        """Whether the loss holds the policy near the weights that training began with."""
        return self.objective in ("grpo", "distill_grpo") and self.policy.kl_coefficient > 0
