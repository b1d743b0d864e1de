"""The door of the configs: what passes is whole and typed, what does not is told at once, with the cure."""

import importlib
import json
from pathlib import Path

import pytest

from rcsd_jax import config, lm, pipeline, sharding, sweep

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


def errors_of(changes):
    """The lines of the error that the default config with these changes (path -> value) gives."""
    values = config.default()
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        with section.unlocked(), section.ignore_type():
            section[key] = value
    with pytest.raises(config.ConfigError) as caught:
        config.read(values)
    return caught.value.errors


def test_the_default_config_reads_back_as_the_default_experiment():
    assert config.read(config.default()) == config.Experiment()
    assert config.read({}) == config.Experiment()


def test_json_gives_the_experiment_back_and_equal_experiments_have_equal_hashes():
    values = config.default()
    values.sampling.temperature = 1  # an int where a float belongs
    values.prompts.student_lengths = [8, 16]  # a list where a tuple belongs
    values.divergence.token_clip = 0.5
    values.optimizer.max_grad_norm = None
    experiment = config.read(values)
    assert isinstance(experiment.sampling.temperature, float)
    assert experiment.prompts.student_lengths == (8, 16)
    assert experiment.optimizer.max_grad_norm is None
    again = config.read(json.loads(config.to_json(experiment)))
    assert again == experiment
    assert config.content_hash(again) == config.content_hash(experiment)
    assert config.content_hash(config.Experiment()) != config.content_hash(experiment)


def test_everything_that_is_wrong_is_told_at_once():
    errors = errors_of(
        {
            "trian": {},
            "train.stepz": 5,
            "train.rows": 2.5,
            "sampling.temperature": -1.0,
            "mesh": 8,
            "data.source": "quarz",
            "train.micro_batches": 3,
            "optimizer.learning_rate": float("nan"),
            "sampling.top_p": 1.5,
            "optimizer.b2": 1.0,
            "optimizer.schedule": "cosin",
        }
    )
    told = "\n".join(errors)
    assert len(errors) == 12, told
    for part in (
        "config.trian is unknown: did you mean 'train'?",
        "config.train.stepz is unknown: did you mean 'steps'?",
        "config.train.rows is 2.5 (float): give int",
        "config.sampling: sampling.temperature is -1.0",
        "config.sampling: sampling.top_p is 1.5",
        "config.optimizer: optimizer.b2 is 1.0",
        "config.optimizer: optimizer.schedule is 'cosin'",
        "config.mesh is 8: give a section with the keys of MeshConfig",
        "did you mean 'quartz'?",
        "config.data.path is empty",
        "micro_batches is 3: it must divide the 32 questions of a step",
        "config.optimizer.learning_rate is nan: give a finite number",
    ):
        assert part in told
    with pytest.raises(ValueError, match="the config has 1 error:\n  - config.seed is -1"):
        config.read({"seed": -1})


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("name", 5, "give str"),
        ("seed", 2**32, "give at least 0, at most 4294967295"),
        ("seed", True, "give int"),
        ("task", "anser", "did you mean 'answer'?"),
        ("objective", "rl", "not one of sft, distill, distill_sampled, distill_grpo, grpo, best_of_n"),
        ("model.compute.dtype", "float16", "use 'float32' or 'bfloat16'"),
        ("model.lora.targets", ("q_projj",), "lora.targets"),
        ("model.lora.alpha", float("inf"), "give a finite number"),
        ("data.limit", -1, "give at least 0"),
        ("data.eval_share", -0.5, "give at least 0, at most 1"),
        ("data.science.noise.rate", "high", "config.data.science.noise.rate is 'high' (str): give float"),
        ("prompts.student_lengths", (), "give increasing positive lengths"),
        ("prompts.teacher_lengths", (64, 32), "give increasing positive lengths"),
        ("prompts.student_lengths", (32, "64"), "config.prompts.student_lengths[1] is '64' (str): give int"),
        ("prompts.student_lengths", 32, "give a list of int"),
        ("prompts.student_thinking", "yes", "not one of on, off, default"),
        ("rubrics.control", "randm", "did you mean 'random'?"),
        ("rubrics.retries", -1, "give at least 0"),
        ("teacher.context", ("rubrik",), "config.teacher.context is 'rubrik'"),
        ("teacher.weights.ema_decay", 1.0, "ema_decay"),
        ("evaluation.context", ("answer",), "config.evaluation.context is 'answer'"),
        ("evaluation.sampling.top_p", 0.0, "top_p"),
        ("train.steps", 0, "give at least 1"),
        ("train.max_skipped", 0, "give at least 1"),
        ("train.trajectories_every", 0, "give at least 1"),
        ("divergence.kind", "kl", "kl_teacher_student"),
        ("reward.judge", "endpint", "did you mean 'endpoint'?"),
        ("reward.scale", "likert", "not one of explicit, quoted, implicit"),
        ("reward.max_failed", 1.5, "give at least 0, at most 1"),
        ("reward.endpoint.concurrency", 0, "config.reward.endpoint: concurrency is 0: give at least 1"),
        ("optimizer.schedule", "cosin", "schedule"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_named(path, value, says):
    [error] = errors_of({path: value})
    assert says in error


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rubrics.source": "none"}, "config.teacher.context has 'rubric' and config.rubrics.source is 'none'"),
        (
            {"rubrics.source": "none", "teacher.context": (), "evaluation.context": ("rubric",)},
            "config.evaluation.context has 'rubric'",
        ),
        ({"rubrics.source": "cache"}, "config.rubrics.path is empty"),
        ({"rubrics.min_criteria": 9, "rubrics.max_criteria": 3}, "no rubric has so few and so many"),
        ({"data.source": "quartz"}, "config.data.path is empty"),
        ({"data.eval_share": 0.6, "data.rubric_share": 0.6}, "sum to more than 1"),
        ({"examples": "science_pretraining", "data.source": "jsonl", "data.path": "x"}, "needs config.data.source"),
        ({"model.trainable": "lora"}, "a model from scratch has nothing to adapt"),
        ({"train.questions": 3, "train.samples": 2, "train.micro_batches": 2}, "must divide the 3 questions"),
        ({"objective": "sft", "train.rows": 9, "train.micro_batches": 2}, "must divide the 9 rows"),
        ({"teacher.reason_first": True, "task": "rubric"}, "config.teacher.reason_first is on"),
        ({"teacher.reason_first": True, "teacher.context": ()}, "config.teacher.reason_first is on"),
        ({"objective": "grpo"}, "config.train.samples is 1: the samples of a question"),
        ({"objective": "grpo", "train.samples": 4, "task": "rubric"}, "rewards are for answers"),
        ({"objective": "distill_sampled", "sampling.temperature": 0.0}, "needs the odds"),
        (
            {
                "objective": "best_of_n",
                "train.samples": 4,
                "reward.kind": "rubric",
                "data.source": "jsonl",
                "data.path": "x",
            },
            "without a judge",
        ),
        (
            {"objective": "grpo", "train.samples": 4, "reward.kind": "rubric", "reward.scale": "implicit"},
            "only with config.reward.scale 'explicit'",
        ),
        (
            {"objective": "grpo", "train.samples": 4, "reward.kind": "rubric", "reward.judge": "endpoint"},
            "name it in config.reward.endpoint.url",
        ),
        (
            {"objective": "distill_grpo", "train.samples": 2, "policy.aggregation": "grpo"},
            "share one mean over tokens",
        ),
        ({"objective": "grpo", "train.samples": 2, "gates.min_student_entropy": 1.0}, "has no teacher"),
        ({"teacher.solutions": "sibling", "train.samples": 4}, "must have 'solution'"),
        ({"teacher.solutions": "sibling", "teacher.context": ("solution",)}, "config.train.samples is 1"),
        ({"teacher.contrast": 0.5, "teacher.context": ("reference",)}, "'rubric' in config.teacher.context"),
        ({"divergence.purify": 2.0, "teacher.contrast": 0.5}, "config.divergence.purify is 2.0"),
        ({"divergence.purify": 2.0, "rubrics.control": "none"}, "that shows something"),
        ({"divergence.purify": -1.0}, "it must be positive"),
        ({"train.updates_per_rollout": 2, "train.checkpoint_every": 5}, "config.train.checkpoint_every is 5"),
        (
            {
                "objective": "distill_grpo",
                "train.samples": 2,
                "policy.kl_coefficient": 0.1,
                "teacher.weights.kind": "ema",
            },
            "nobody keeps the weights that training began with",
        ),
        ({"train.updates_per_rollout": 2, "teacher.weights.kind": "ema"}, "whose LM head moves"),
        ({"optimizer.schedule": "linear", "optimizer.warmup_steps": 9, "optimizer.total_steps": 9}, "after the warmup"),
    ],
)
def test_values_that_are_fine_alone_and_wrong_together_are_refused(changes, says):
    [error] = errors_of(changes)
    assert says in error


def test_sft_does_not_need_the_rubric_that_the_default_teacher_reads():
    assert config.read({"objective": "sft", "rubrics": {"source": "none"}}).teacher.context == ("rubric",)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_reads_without_an_error(name):
    values = importlib.import_module(f"configs.{name}").get_config()
    if "seeds" in values:
        cells = sweep.read_cells(values, "runs/x")
        assert len(cells) == len(values.seeds) * len(values.order)
        return
    if "parts" in values:
        parts = pipeline.read_parts(values, "runs/x")
        assert [part.experiment.name for part in parts] == list(values.order)
        return
    values.data.path = values.data.path or "problems.jsonl"  # left to the user
    values.rubrics.path = values.rubrics.path or "rubrics.jsonl"
    assert config.read(values).name == name


@pytest.mark.parametrize("judge", ["endpoint", "self", "science"])
def test_rubric_rewards_come_with_each_judge(judge):
    values = importlib.import_module("configs.grpo_rubrics").get_config(judge)
    values.data.path = "" if judge == "science" else "problems.jsonl"
    experiment = config.read(values)
    assert experiment.reward.judge == {"science": "program"}.get(judge, judge)
    assert experiment.older_weights.kind == ("base" if judge == "self" else "live")


def test_where_a_judge_is_asked_may_change_while_a_run_is_under_way_and_which_one_it_is_may_not():
    def hash_of(**endpoint):
        return config.content_hash(config.read({"reward": {"endpoint": endpoint}}))

    free = {"url": "http://other:1/v1", "concurrency": 1, "retries": 0, "timeout": 1, "deadline": 2, "cache": "x"}
    assert hash_of(**free) == hash_of()
    assert len({hash_of(), hash_of(model="m"), hash_of(temperature=1.0), hash_of(max_tokens=5)}) == 4
    before = {"reward": {"endpoint": {"url": "u", "model": "m"}}}
    assert config.without_free(before) == {"reward": {"endpoint": {"model": "m"}}}
    assert before["reward"]["endpoint"]["url"] == "u", "the values that were given stay whole"


@pytest.mark.parametrize("name", ["rcsd", "rubric_generator"])
def test_the_released_profile_is_one_switch(name):
    values = importlib.import_module(f"configs.{name}").get_config("released")
    values.data.path, values.rubrics.path = "problems.jsonl", "rubrics.jsonl"
    experiment = config.read(values)
    assert (experiment.prompts.profile, experiment.divergence.entry_clip) == ("released", 0.05)
    if name == "rcsd":
        teacher = experiment.teacher
        assert teacher.context == ("reference", "rubric") and teacher.reason_first
        assert experiment.prompts.teacher_lengths[0] > teacher.analysis.max_new_tokens


def test_the_records_are_those_of_the_rooms():
    experiment = config.read(config.default())
    assert isinstance(experiment.sampling, lm.SamplingConfig)
    assert isinstance(experiment.mesh, sharding.MeshConfig)
