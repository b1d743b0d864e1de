"""The batch of step t is a function of seed, t and weights; nothing that the teacher reads is cut or decoded."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pipeline import experiment

from rcsd_jax import collector as collector_file
from rcsd_jax import config, data, learning, lm, models, questions, rollout, rubrics, sharding
from rcsd_jax.collector import Collector
from rcsd_jax.learning import TeacherConfig
from rcsd_jax.types import Rubric

RUBRIC = experiment()
MESH = sharding.make_mesh(devices=jax.devices()[:1])
PROBLEMS = questions.load(RUBRIC.data, "train")
GUIDANCE = questions.guidance(RUBRIC, PROBLEMS)


def teacher(weights, context=("rubric",), **changes):
    """The tiny experiment with another teacher."""
    changed = config.Teacher(context=context, weights=TeacherConfig(weights, ema_decay=0.5), **changes)
    return dataclasses.replace(RUBRIC, teacher=changed)


@pytest.fixture(scope="module")
def model():
    with jax.set_mesh(MESH):
        return models.load(RUBRIC.model, 0, MESH)


def at_once(collector, state, t):
    """Rollout t, sampled and scored with the same weights."""
    return collector.finish(state, collector.begin(state, t))


def collect(e, model, step=0, state=None, problems=PROBLEMS, guidance=GUIDANCE):
    """(scored batch, its questions, the collector) of one step."""
    with jax.set_mesh(MESH):
        collector = Collector(e, model, problems, guidance, MESH)
        collected = at_once(collector, state or models.initial_state(e, model, MESH), step)
        return collected.batch, collected.problems, collector


@functools.partial(jax.jit, static_argnums=0)
def hidden(transformer, variables, scored):
    """What the student itself has at each token of its completions."""
    r = scored.rollout
    return lm.hidden_of_completion(transformer, variables, r.prompts, r.completion_BC, r.valid_BC, shared=True)


def spy(monkeypatch):
    """The prompts that go to the devices from now on, one list a batch."""
    seen = []
    for file in (rollout, collector_file):
        place = file.place_prompts

        def spied(prompts, *rest, place=place):
            seen.append(prompts)
            return place(prompts, *rest)

        monkeypatch.setattr(file, "place_prompts", spied)
    return seen


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_batch_is_a_function_of_seed_step_and_weights(model):
    first, asked, collector = collect(RUBRIC, model, step=3)
    again, asked_again, _ = collect(RUBRIC, model, step=3)
    assert asked == asked_again
    assert_equal(first, again)
    with jax.set_mesh(MESH):
        later = at_once(collector, models.initial_state(RUBRIC, model, MESH), 4).batch
    assert not np.array_equal(first.rollout.completion_BC, later.rollout.completion_BC)
    other_seed = collect(dataclasses.replace(RUBRIC, seed=1), model, step=3)[0]
    assert not np.array_equal(first.rollout.completion_BC, other_seed.rollout.completion_BC)


def test_a_question_has_the_same_completions_whatever_the_guidance_of_its_teacher(model):
    with_rubric, asked, _ = collect(RUBRIC, model)
    with_reference, also_asked, _ = collect(teacher("base", ("reference",)), model)
    assert asked == also_asked
    assert_equal(with_rubric.rollout, with_reference.rollout)
    assert not np.array_equal(with_rubric.teacher_hidden_BCD, with_reference.teacher_hidden_BCD)


def test_short_completions_are_cut_to_a_bucket_and_only_padding_goes(model):
    whole = collect(RUBRIC, model)[0].rollout
    room = whole.valid_BC.shape[1]
    for uncut in rollout.shortened(whole, whole, (room // 2,)):
        assert uncut.valid_BC.shape == whole.valid_BC.shape, "nothing real is cut"
    short = dataclasses.replace(whole, valid_BC=np.asarray(whole.valid_BC) & (np.arange(room) < 3))
    for cut in rollout.shortened(short, short, (2, 4, room)):
        for name in ("completion_BC", "valid_BC", "logp_BC", "tempered_logp_BC", "sampling_logp_BC"):
            np.testing.assert_array_equal(getattr(cut, name), getattr(short, name)[:, :4])
        assert cut.valid_BC.sum() == short.valid_BC.sum() and cut.samples == whole.samples


def test_questions_that_cannot_be_used_are_dropped_and_counted_and_no_prompt_is_cut(model, monkeypatch):
    encoder = collect(RUBRIC, model)[2].encoder
    student = {p.id: len(encoder.student(p)) for p in PROBLEMS}
    guided = {p.id: len(encoder.teacher(p, ("rubric",), GUIDANCE[p.id])) for p in PROBLEMS}
    longest, longest_guided = sorted(student.values())[-8], sorted(guided.values())[-12]
    lengths = {"student_lengths": (longest,), "teacher_lengths": (16, longest_guided)}
    e = dataclasses.replace(RUBRIC, prompts=dataclasses.replace(RUBRIC.prompts, **lengths))
    known = {name: rubric for name, rubric in GUIDANCE.items() if name != PROBLEMS[0].id}

    placed = spy(monkeypatch)
    _, asked, collector = collect(e, model, guidance=known)
    dropped = collector.fitting.dropped
    assert dropped["no rubric"] == [PROBLEMS[0].id]
    assert set(dropped["student prompt too long"]) == {n for n in known if student[n] > longest}
    assert set(dropped["teacher prompt too long"]) == {
        n for n in known if student[n] <= longest and guided[n] > longest_guided
    }
    assert sum(map(len, dropped.values())) + len(collector.fitting.problems) == len(PROBLEMS)
    assert placed == [
        [encoder.student(p) for p in asked],
        [encoder.teacher(p, ("rubric",), known[p.id]) for p in asked],
    ]


def test_no_question_left_is_an_error_with_the_counts(model):
    with pytest.raises(
        ValueError, match=f"none of {len(PROBLEMS)} questions can be used, dropped: {{'no rubric': 64}}"
    ):
        collect(RUBRIC, model, guidance={})


def test_a_teacher_with_the_students_weights_and_prompt_is_the_student(model):
    e, transformer = teacher("live", ()), model.transformer

    @jax.jit
    def loss(variables, scored):
        head_VD = lm.head_VD(variables, transformer.architecture)
        given = learning.Given(transformer, e.loss, model.tokenizer.vocab_limit, teacher_head_VD=head_VD)
        total, count, _ = learning.OBJECTIVES["distill"](variables, scored, given)
        return total / count

    with jax.set_mesh(MESH):
        state = models.initial_state(e, model, MESH)
        bare, guided = (collect(teacher("live", context), model, state=state)[0] for context in ((), ("reference",)))
        np.testing.assert_allclose(bare.teacher_hidden_BCD, hidden(transformer, state.variables, bare), atol=1e-5)
        assert abs(loss(state.variables, bare)) < 1e-6
        assert loss(state.variables, guided) > 1e-3


def test_reason_first_splices_the_sampled_analysis_into_the_teachers_prompt(model, monkeypatch):
    e = teacher("base", ("reference",), reason_first=True, analysis=lm.SamplingConfig(max_new_tokens=5))
    placed = spy(monkeypatch)
    scored, asked, collector = collect(e, model, step=2)
    encoder, end = collector.encoder, model.tokenizer.eos_ids[0]
    _, analysts, teachers = placed
    assert analysts == [encoder.analyst(p, ("reference",), None) for p in asked]
    written = []
    for problem, before, whole in zip(asked, analysts, teachers, strict=True):
        after = encoder.after_analysis(problem, ("reference",), None)
        assert whole[: len(before)] == before and whole[-len(after) :] == after
        written.append(whole[len(before) : -len(after)])
    assert all(len(ids) <= 5 and end not in ids for ids in written) and any(written)
    assert len({tuple(ids) for ids in written}) > 1, "every question has its own noise"
    with jax.set_mesh(MESH):
        numbers = at_once(collector, models.initial_state(e, model, MESH), 2).numbers
    assert numbers["teacher_tokens"] == sum(map(len, teachers))
    assert np.isfinite(scored.teacher_hidden_BCD).all()
    assert_equal(collect(e, model, step=2)[0], scored)


def test_reason_first_keeps_room_for_the_whole_analysis(model):
    e = teacher("base", ("reference",), reason_first=True, analysis=lm.SamplingConfig(max_new_tokens=100))
    with pytest.raises(ValueError, match="dropped: {'teacher prompt too long': 64}"):
        collect(e, model)


def test_with_adapters_the_base_teacher_is_the_model_without_them():
    e = dataclasses.replace(
        teacher("base", ()), model=dataclasses.replace(RUBRIC.model, trainable="lora", lora=lm.LoraConfig(rank=4))
    )
    with jax.set_mesh(MESH):
        model = models.load(e.model, 0, MESH)
        state = models.initial_state(e, model, MESH)
        assert state.teacher is None
        learned = jax.tree.map(lambda x: x + 0.05, state.variables["lora"])
        state = state.replace(variables={**state.variables, "lora": learned})
        scored = collect(e, model, state=state)[0]
        on = hidden(model.transformer, state.variables, scored)
        off = hidden(model.transformer, {"params": state.variables["params"]}, scored)
    np.testing.assert_allclose(scored.teacher_hidden_BCD, off, atol=1e-5)
    assert np.abs(on - off).max() > 0.1


def test_the_released_profile_drops_questions_without_a_rubric_of_an_expert(model):
    e = dataclasses.replace(
        RUBRIC, task="rubric", prompts=dataclasses.replace(RUBRIC.prompts, profile="released", teacher_lengths=(200,))
    )
    bare = [dataclasses.replace(p, rubric=None) for p in PROBLEMS[:3]]
    _, asked, collector = collect(e, model, problems=[*bare, *PROBLEMS[3:]])
    assert collector.fitting.dropped == {"no rubric": [p.id for p in bare]}
    assert all(isinstance(p.rubric, Rubric) for p in asked)


# Other teachers


def test_a_sibling_that_succeeded_is_the_solution_that_the_teacher_sees(model):
    e = dataclasses.replace(teacher("ema", ("solution",), solutions="sibling"), reward=config.Reward(threshold=0.5))
    with jax.set_mesh(MESH):
        collector = Collector(e, model, PROBLEMS, {}, MESH)
    assert not collector.fitting.dropped, "a question needs no solution of its own"
    two, texts = PROBLEMS[:2], [["a", "<think> x </think> b", "c"], ["d", "e", "f"]]
    prompts, found = collector._sibling_prompts(two, texts, np.array([[0.0, 1.0, 1.0], [0.5, np.nan, 0.9]]))

    def shown(problem, text):
        return collector.encoder.teacher(dataclasses.replace(problem, solution=text), ("solution",), None)

    bare = [collector.encoder.student(p) for p in two]
    assert prompts[:3] == [shown(two[0], "b"), shown(two[0], "c"), shown(two[0], "b")], "never its own, no thinking"
    assert prompts[3:] == [shown(two[1], "f"), shown(two[1], "f"), bare[1]]
    assert found.tolist() == [True, True, True, True, True, False]


def test_questions_that_wait_for_places_get_the_same_tokens_in_their_order(model):
    e = experiment(train__questions=6, train__samples=2, sampling__max_new_tokens=64)
    few = dataclasses.replace(e, train=dataclasses.replace(e.train, sampling_batch=2))
    (wanted, problems, _), (got, again, _) = collect(e, model), collect(few, model)
    assert problems == again
    for name, x in vars(wanted.rollout).items():
        for ours, theirs in zip(jax.tree.leaves(vars(got.rollout)[name]), jax.tree.leaves(x), strict=True):
            assert ours.sharding == theirs.sharding, name
            np.testing.assert_allclose(ours, theirs, atol=1e-5 if name.endswith("logp_BC") else 0, err_msg=name)
    assert len(set(np.asarray(wanted.rollout.finish_B))) == 2, "some end before others"
    np.testing.assert_allclose(got.teacher_hidden_BCD, wanted.teacher_hidden_BCD, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 1, 2)])
def test_rollouts_lie_alike_whether_sampled_at_once_in_turns_or_given_back_to_a_run_that_goes_on(shape):
    """Else a step would be compiled again for each."""
    e = experiment(model__science__kv_heads=2, train__questions=8, sampling__max_new_tokens=4)
    few = dataclasses.replace(e, train=dataclasses.replace(e.train, sampling_batch=4))
    mesh = sharding.make_mesh(sharding.MeshConfig(*shape))
    with jax.set_mesh(mesh):
        model = models.load(e.model, 0, mesh)
        state = models.initial_state(e, model, mesh)
        at_once, in_turns = (Collector(each, model, PROBLEMS, GUIDANCE, mesh) for each in (e, few))
        fresh, refilled = at_once.begin(state, 0), in_turns.begin(state, 0)
        back = at_once.begun(0, jax.device_get(fresh.seen), None)
    layouts = [jax.tree.map(lambda x: x.sharding, begun.rollout) for begun in (fresh, refilled, back)]
    assert layouts[0] == layouts[1] == layouts[2]
    assert {x.sharding for x in jax.tree.leaves(fresh.rollout)} == {sharding.batch_sharding(mesh)}
    np.testing.assert_array_equal(fresh.rollout.completion_BC, refilled.rollout.completion_BC)


def test_a_contrast_moves_the_logits_away_from_those_of_a_wrong_rubric(model):
    e = teacher("base", contrast=0.5)
    with jax.set_mesh(MESH):
        collector = Collector(e, model, PROBLEMS, GUIDANCE, MESH)
    own = {p.id: collector.encoder.teacher(p, ("rubric",), GUIDANCE[p.id]) for p in PROBLEMS}
    others = {p.id: collector._wrong_prompt(p) for p in PROBLEMS}
    assert all(own[name] != others[name] for name in own)
    rng = np.random.default_rng(0)
    right, wrong, head = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4), (2, 3, 4), (5, 4)))
    found = collector_file._away_from(right, wrong, 0.5) @ head.T
    np.testing.assert_allclose(found, 1.5 * right @ head.T - 0.5 * wrong @ head.T, atol=1e-5)


def test_a_purified_teacher_reads_question_and_context_together_and_each_alone(model, monkeypatch):
    e = dataclasses.replace(teacher("live"), divergence=learning.DivergenceConfig(purify=2.0))
    placed = spy(monkeypatch)
    scored, asked, collector = collect(e, model)
    encoder = collector.encoder
    assert placed[1:] == [
        [encoder.teacher(p, ("rubric",), GUIDANCE[p.id]) for p in asked],
        [encoder.context_alone(p, ("rubric",), GUIDANCE[p.id]) for p in asked],
        [encoder.answer_prompt(p) for p in asked],
    ]
    with jax.set_mesh(MESH):
        state = models.initial_state(e, model, MESH)
        looks = jnp.split(scored.teacher_hidden_BCD, 3, axis=-1)
        for prompts, look_BCD in zip(placed[1:4], looks, strict=True):
            batch = rollout.place_prompts(prompts, e.prompts.teacher_lengths, model.tokenizer.pad_id, MESH)
            alone = dataclasses.replace(scored, rollout=dataclasses.replace(scored.rollout, prompts=batch))
            np.testing.assert_allclose(look_BCD, hidden(model.transformer, state.variables, alone), atol=1e-5)
        numbers = at_once(collector, state, 0).numbers
        assert numbers["teacher_tokens"] == sum(len(prompt) for prompts in placed[1:4] for prompt in prompts)
        head_VD = lm.head_VD(state.variables, model.transformer.architecture)
        given = learning.Given(model.transformer, e.loss, model.tokenizer.vocab_limit, teacher_head_VD=head_VD)
        for objective in learning.TAUGHT[:2]:
            total, count, _ = learning.OBJECTIVES[objective](state.variables, scored, given)
            assert np.isfinite(total) and abs(total / count) > 1e-4


def test_a_perturbed_rubric_is_seeded_set_by_the_config_and_described():
    def guided(**changes):
        e = experiment(**{f"rubrics__{name}": value for name, value in changes.items()})
        return questions.guidance(e, PROBLEMS), questions.describe(e)

    for control, key, weak, strong in (
        ("noisy", "noise_rate", 0.0, 1.0), ("reduced", "keep", 9, 1), ("dropped", "drop_probability", 0.0, 1.0),
    ):  # fmt: skip
        (mild, line), (harsh, _) = (guided(control=control, **{key: value}) for value in (weak, strong))
        assert all(mild[name].criteria == GUIDANCE[name].criteria for name in mild), control
        assert all(harsh[name].criteria != GUIDANCE[name].criteria for name in harsh), control
        assert line.startswith(f"ground_truth, {control}: ") and f" {weak}, seed 0)" in line
        assert guided(control=control, **{key: strong})[0] == harsh
    assert questions.describe(experiment()) == "ground_truth"


def test_the_generic_rubric_is_in_words_that_the_data_have():
    in_world = data.science.GENERIC
    assert {c.title for c in in_world.criteria} == {c.title for c in PROBLEMS[0].rubric.criteria}
    assert set(questions.guidance(experiment(rubrics__control="generic"), PROBLEMS).values()) == {in_world}
    assert set(questions.guidance(experiment(rubrics__source="generic"), PROBLEMS).values()) == {in_world}
    elsewhere = experiment(rubrics__source="generic", data__source="jsonl", data__path="unread")
    [general] = set(questions.guidance(elsewhere, PROBLEMS).values())
    assert general == rubrics.controls.GENERIC


@pytest.mark.parametrize("control", rubrics.CONTROLS)
def test_what_a_control_made_is_read_again_as_a_cache(control, tmp_path):
    path = str(tmp_path / "guidance.jsonl")
    for seed in (1, 0):  # what an earlier try left is replaced
        perturbed = experiment(rubrics__source="ground_truth", rubrics__control=control, seed=seed)
        asked = questions.load(perturbed.data, perturbed.data.split)
        questions.keep_perturbed(perturbed, asked, questions.guidance(perturbed, asked), path)
    again = experiment(rubrics__source="cache", rubrics__path=path)
    assert questions.guidance(again, asked) == questions.guidance(perturbed, asked)
    assert json.loads((tmp_path / "guidance.jsonl").read_text().splitlines()[0])["generator"].startswith(
        f"ground_truth, {control}: "
    )
