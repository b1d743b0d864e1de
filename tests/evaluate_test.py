"""Every question has its records, and they do not depend on how the questions were batched."""

import dataclasses

import jax
import pytest
from tiny_pipeline import experiment

from rcsd_jax import data, evaluate, evaluation, lm, models, questions, sharding

MEASURED = experiment()


def records(folder):
    return {path.stem: evaluation.read_records(path) for path in sorted((folder / "evaluation").glob("*.jsonl"))}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(folder, summary) of a new model."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        return folder, evaluate.evaluate(MEASURED, folder)


def on_one_device(patch):
    make_mesh = evaluate.sharding.make_mesh
    patch.setattr(evaluate.sharding, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))


def test_every_question_of_every_split_has_sampled_and_greedy_records(measured):
    folder, summary = measured
    found = records(folder)
    assert (
        set(found) == {"eval_sampled", "eval_greedy", "transfer_sampled", "transfer_greedy"} == set(summary["results"])
    )
    for name, rows in found.items():
        split, mode = name.split("_")
        problems = questions.load(MEASURED.data, split)
        assert [row.id for row in rows] == [problem.id for problem in problems]
        assert {row.samples for row in rows} == {2 if mode == "sampled" else 1}
        assert all(len(row.criterion_titles) == len(p.rubric.criteria) for row, p in zip(rows, problems, strict=True))
        result = summary["results"][name]
        assert result["questions"] == len(problems) and result["dropped"] == {}
    assert summary["tokens"] == sum(sum(row.lengths) for rows in found.values() for row in rows)


def test_the_two_samples_of_a_question_differ_and_so_do_the_splits(measured):
    sampled = records(measured[0])["eval_sampled"]
    assert sum(row.texts[0] != row.texts[1] for row in sampled) > len(sampled) / 2


def test_the_size_of_the_batches_changes_no_number(measured, one_device, tmp_path):
    e = dataclasses.replace(MEASURED, evaluation=dataclasses.replace(MEASURED.evaluation, batch=5))
    summary = evaluate.evaluate(e, tmp_path)
    assert records(tmp_path) == records(measured[0])
    assert summary["results"] == measured[1]["results"]


def test_a_measured_workdir_is_not_measured_again(measured, monkeypatch):
    folder, summary = measured
    monkeypatch.setattr(evaluate.models, "load", None)
    assert evaluate.evaluate(MEASURED, folder) == summary


def test_questions_that_the_model_was_trained_on_are_counted_and_warned_of(one_device, tmp_path, monkeypatch):
    e = experiment(evaluation__splits=("eval",), evaluation__greedy=False)
    model = models.load(e.model, 0, sharding.make_mesh(e.mesh))
    of_eval = questions.load(e.data, "eval")
    as_typed = dataclasses.replace(of_eval[0], id="other", question=f" {of_eval[0].question}  ")
    learned = [as_typed, *of_eval[1:3], *questions.load(e.data, "train")]
    notes = {questions.TRAINED_ON: "".join(f"{data.question_hash(problem)}\n" for problem in learned)}
    lm.export(tmp_path / "model", model.transformer, model.variables, model.tokenizer, notes=notes)
    e = dataclasses.replace(e, model=dataclasses.replace(e.model, source=str(tmp_path / "model")))
    told = []
    monkeypatch.setattr(evaluate.logging, "warning", lambda text, *values: told.append(text % values))
    assert evaluate.evaluate(e, tmp_path / "run")["seen_in_training"] == {"eval": 3}
    assert any(line.startswith("3 of the 16 questions of split 'eval'") for line in told)
    # What is trained further was trained on both.
    assert set(questions.history(e).split()) == set(map(data.question_hash, learned))


def test_guidance_in_the_prompt_changes_the_answers_and_what_cannot_be_asked_is_counted(
    measured, one_device, tmp_path, monkeypatch
):
    e = experiment(evaluation__context=("rubric",), evaluation__splits=("eval",), evaluation__greedy=False)
    given = questions.guidance
    missing = [problem.id for problem in questions.load(e.data, "eval")][:3]

    def partial(experiment, problems):
        return {name: rubric for name, rubric in given(experiment, problems).items() if name not in missing}

    monkeypatch.setattr(questions, "guidance", partial)
    summary = evaluate.evaluate(e, tmp_path)
    assert set(summary["results"]) == {"eval_sampled"}
    assert summary["results"]["eval_sampled"]["dropped"] == {"no rubric": 3}
    guided = {row.id: row.texts for row in records(tmp_path)["eval_sampled"]}
    bare = {row.id: row.texts for row in records(measured[0])["eval_sampled"]}
    assert set(guided) == set(bare) - set(missing)
    assert any(guided[name] != bare[name] for name in guided)


def test_what_a_control_made_of_the_rubrics_in_the_prompts_is_kept(one_device, tmp_path):
    e = experiment(
        evaluation__context=("rubric",), evaluation__splits=("eval",), evaluation__greedy=False, evaluation__samples=1,
        rubrics__control="random",
    )  # fmt: skip
    evaluate.evaluate(e, tmp_path)
    asked = questions.load(e.data, "eval")
    again = experiment(rubrics__source="cache", rubrics__path=str(tmp_path / "guidance_eval.jsonl"))
    assert questions.guidance(again, asked) == questions.guidance(e, asked) != questions.guidance(MEASURED, asked)


def test_a_split_of_which_no_question_fits_is_an_error_with_the_reasons(one_device, tmp_path):
    with pytest.raises(
        ValueError, match="none of the 16 questions of split 'eval' can be asked: {'prompt too long': 16}"
    ):
        evaluate.evaluate(experiment(prompts__student_lengths=(4,)), tmp_path)
    with pytest.raises(ValueError, match="there is no split 'evaluation' in science: use one of pretrain"):
        evaluate.evaluate(experiment(evaluation__splits=("evaluation",)), tmp_path / "other")
