"""The science world's splits, noise and pretraining mixture."""

from __future__ import annotations

import collections
import re

import pytest

from rcsd_jax.data import science
from rcsd_jax.types import Problem

CONFIG = science.ScienceConfig(seed=3)
POST_TRAINING = ("train", "rubric", "eval")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    return science.splits(CONFIG)


def numbers_of(problems: list[Problem]) -> set[tuple[str, tuple[int, ...]]]:
    instances = map(science.instance_of, problems)
    return {(instance.template.name, instance.numbers) for instance in instances}


def facts_of(problems: list[Problem]) -> set[str]:
    """What a clean rationale must know by heart, like "3 * 4"."""
    texts = (science.rationales(science.instance_of(problem))["clean"] for problem in problems)
    return {fact for text in texts for fact in re.findall(r"\d+ [-+*/^] \d+(?= = \d+)", text)}


def test_there_are_enough_templates_and_questions_in_each_subject(splits):
    subjects = collections.Counter(template.subject for template in science.TEMPLATES.values())
    assert sum(subjects.values()) >= 24
    assert set(subjects) == {"physics", "chemistry", "biology", "earth"} and min(subjects.values()) >= 7
    assert len({problem.question for problems in splits.values() for problem in problems}) >= 6000


def test_splits_have_the_sizes_of_the_config_and_no_question_twice(splits):
    assert list(splits) == ["pretrain", "train", "rubric", "eval", "transfer"]
    for split, problems in splits.items():
        assert len(problems) == getattr(CONFIG, split)
        assert len({problem.id for problem in problems}) == len(problems)
    everything = [problem.question for problems in splits.values() for problem in problems]
    assert len(set(everything)) == len(everything)


def test_no_two_splits_share_the_numbers_of_a_template(splits):
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for problems in splits.values():
        assert not seen & numbers_of(problems)
        seen |= numbers_of(problems)


def test_held_out_templates_are_met_before_post_training_and_in_transfer_only(splits):
    held_out = set(science.held_out_templates(CONFIG))
    used = {split: {problem.source.split("/")[-1] for problem in problems} for split, problems in splits.items()}
    assert len(held_out) == CONFIG.held_out_templates == len(used["transfer"])
    assert used["transfer"] == held_out and used["pretrain"] == set(science.TEMPLATES)
    assert all(used[split] == set(science.TEMPLATES) - held_out for split in POST_TRAINING)


def test_later_splits_ask_for_no_arithmetic_that_pretraining_does_not_show(splits):
    known = facts_of(splits["pretrain"])
    assert all(facts_of(splits[split]) <= known for split in ("train", "rubric", "eval", "transfer"))


def test_a_world_is_a_function_of_its_config(splits):
    assert science.splits(CONFIG) == splits
    small = science.ScienceConfig(seed=4, pretrain=50, train=50, rubric=50, eval=50, transfer=5)
    assert {problem.id for problem in science.splits(small)["eval"]} != {problem.id for problem in splits["eval"][:50]}


def test_a_problem_leads_back_to_its_instance(splits):
    for problem in splits["eval"]:
        instance = science.instance_of(problem)
        assert (instance.id, instance.question, instance.answer) == (problem.id, problem.question, problem.answer)


def test_corruption_has_the_rate_of_the_config_and_is_the_majority_on_systematic_templates(splits):
    kinds: dict[str, list[str | None]] = collections.defaultdict(list)
    for problem in (*splits["pretrain"], *splits["train"]):
        kinds[problem.source].append(science.corruption(problem))
    rates = {source: 1 - names.count("clean") / len(names) for source, names in kinds.items()}
    assert sum(rates.values()) / len(rates) == pytest.approx(CONFIG.noise.rate, abs=0.03)
    systematic = [source for source, rate in rates.items() if rate > 0.65]
    assert len(systematic) / len(rates) == pytest.approx(CONFIG.noise.systematic_share, abs=0.03)
    for source, names in kinds.items():
        if source in systematic:
            assert set(names) == {"clean", "wrong_operation"}
        else:
            assert collections.Counter(names).most_common(1)[0][0] == "clean"
            assert set(names) == {"clean", *science.CORRUPTIONS} or len(names) < 100


def test_without_noise_every_rationale_is_clean():
    noise = science.NoiseConfig(rate=0.0, systematic_share=0.0)
    config = science.ScienceConfig(pretrain=100, train=100, rubric=100, eval=100, transfer=20, noise=noise)
    for problems in science.splits(config).values():
        assert {science.corruption(problem) for problem in problems} == {"clean"}


def test_impossible_worlds_are_refused():
    with pytest.raises(ValueError, match="'transfer' has .* questions, 1000000 are wanted"):
        science.splits(science.ScienceConfig(transfer=1_000_000))
    with pytest.raises(ValueError, match="noise rate 0.1 cannot be reached"):
        science.splits(science.ScienceConfig(noise=science.NoiseConfig(rate=0.1)))
    with pytest.raises(ValueError, match="not from the science world"):
        science.check(Problem(id="q1", question="Why?", answer="42"), "answer 42")


def test_pretraining_has_the_shares_of_its_config_and_is_deterministic(splits):
    config = science.PretrainingConfig(examples=6000, answer=0.3, answer_with_solution=0.1)
    examples = science.pretraining_examples(splits["pretrain"], config)
    assert examples == science.pretraining_examples(splits["pretrain"], config)
    counts = collections.Counter(example.kind for example in examples)
    for kind in science.KINDS:
        assert counts[kind] / len(examples) == pytest.approx(getattr(config, kind), abs=0.02)


def test_pretraining_targets_follow_what_the_prompt_shows(splits):
    flawed: dict[str, list[bool]] = collections.defaultdict(list)
    config = science.PretrainingConfig(examples=6000, answer_with_solution=0.1)
    for example in science.pretraining_examples(splits["pretrain"], config):
        problem, instance = example.problem, science.instance_of(example.problem)
        texts = science.rationales(instance)
        if example.kind == "answer":
            assert example.target == problem.solution and example.rubric is None
        elif example.kind == "answer_with_reference":
            assert example.target == texts["clean"] and example.rubric is None
        elif example.kind == "answer_with_solution":
            assert example.target == problem.solution == texts["clean"] and example.rubric is None
        elif example.kind == "answer_with_rubric":
            assert example.rubric is not None
            flaw = example.rubric.origin.removeprefix("flawed: ")
            flawed[example.kind].append(example.rubric != problem.rubric)
            assert example.target == texts["clean" if flaw == "ground_truth" else flaw]
        else:
            flawed[example.kind].append(example.target_rubric != problem.rubric)
            assert example.rubric == (problem.rubric if example.kind == "rubric_with_rubric" else None)
            assert example.target is None
    rates = {kind: sum(flags) / len(flags) for kind, flags in flawed.items()}
    assert rates["answer_with_rubric"] == pytest.approx(0.2, abs=0.05)
    assert rates["rubric"] == pytest.approx(0.4, abs=0.07)
    assert rates["rubric_with_reference"] == rates["rubric_with_rubric"] == 0
