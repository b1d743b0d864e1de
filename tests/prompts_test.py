"""Every role sees what it may see, and nothing else."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcsd_jax.rubrics import TEACHER_CONTEXTS, WORDINGS, parse, prompts, to_json
from rcsd_jax.rubrics.prompts import COMPACT, STANDARD
from rcsd_jax.types import Criterion, Message, Problem, Rubric

RUBRIC = Rubric((Criterion("Law", "Names the LAWTEXT", 9.0), Criterion("Slip", "Forgets the unit", -1.0)))
TRUTH = Rubric((Criterion("Truth", "TRUTHTEXT", 5.0),))
PROBLEM = Problem("q1", "Which QUESTION?", "ANSWERTEXT", solution="SOLUTIONTEXT", rubric=TRUTH)
MARKS = {"reference": "ANSWERTEXT", "solution": "SOLUTIONTEXT", "rubric": "LAWTEXT"}
CONTEXTS = [c for n in range(4) for c in itertools.combinations(TEACHER_CONTEXTS, n)]
both_wordings = pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)


def text_of(messages):
    assert messages[-1].role == "user"
    return "\n".join(message.content for message in messages)


@both_wordings
@pytest.mark.parametrize("context", CONTEXTS)
def test_teacher_and_analyst_see_exactly_their_context(context, wording):
    prompts_made = [prompts.teacher(PROBLEM, context, RUBRIC, wording)]
    prompts_made += [prompts.analyst(PROBLEM, context, RUBRIC, wording)] if context else []
    for messages in prompts_made:
        text = text_of(messages)
        assert {name for name, mark in MARKS.items() if mark in text} == set(context)
        assert "QUESTION" in text and "TRUTHTEXT" not in text
        assert "{" not in text.replace(to_json(RUBRIC), "").replace(r"\boxed{}", "")


@both_wordings
def test_the_student_sees_the_question_only(wording):
    text = text_of(prompts.student(PROBLEM, wording))
    assert "QUESTION" in text and not any(mark in text for mark in (*MARKS.values(), "TRUTHTEXT"))


@both_wordings
def test_a_context_alone_shows_nothing_of_the_question(wording):
    choice = dataclasses.replace(PROBLEM, choices=("CHOICETEXT", "ANSWERTEXT"))
    text = text_of(prompts.context_alone(choice, ("solution", "rubric"), RUBRIC, wording))
    assert "SOLUTIONTEXT" in text and "LAWTEXT" in text
    assert "QUESTION" not in text and "CHOICETEXT" not in text and text == text.strip()


@both_wordings
def test_a_teacher_with_nothing_to_show_gets_the_prompt_of_the_student(wording):
    student = prompts.student(PROBLEM, wording)
    assert prompts.teacher(PROBLEM, (), None, wording) == student
    assert prompts.teacher(PROBLEM, ("rubric",), Rubric((), "none"), wording) == student


@both_wordings
def test_the_order_of_a_context_does_not_matter(wording):
    assert prompts.teacher(PROBLEM, ("rubric", "reference"), RUBRIC, wording) == prompts.teacher(
        PROBLEM, ("reference", "rubric"), RUBRIC, wording
    )


@both_wordings
@pytest.mark.parametrize(
    ("profile", "writer_marks", "teacher_marks"),
    [("paper", set(), {"ANSWERTEXT"}), ("released", {"ANSWERTEXT"}, {"ANSWERTEXT", "TRUTHTEXT"})],
)
def test_stage_one_profiles_are_those_of_the_method(profile, writer_marks, teacher_marks, wording):
    marks = {"ANSWERTEXT", "SOLUTIONTEXT", "TRUTHTEXT"}
    writer = text_of(prompts.rubric_writer(PROBLEM, profile, wording))
    teacher = text_of(prompts.rubric_teacher(PROBLEM, profile, wording))
    assert {mark for mark in marks if mark in writer} == writer_marks
    assert {mark for mark in marks if mark in teacher} == teacher_marks
    assert (to_json(TRUTH) in teacher) == (profile == "released")


def test_the_standard_target_rubric_is_named_as_target_and_only_json_is_asked_for():
    text = text_of(prompts.rubric_teacher(PROBLEM, "released"))
    assert "target" in text and "JSON array only" in text


@both_wordings
def test_a_missing_reference_answer_has_a_sentence_in_its_place(wording):
    unanswered = Problem("q", "Q?", " ")
    assert wording.no_reference in text_of(prompts.teacher(unanswered, ("reference", "rubric"), RUBRIC, wording))


@pytest.mark.parametrize(
    ("context", "rubric", "message"),
    [
        (("rubric",), None, "q2 has no rubric"),
        (("solution",), None, "q2 has no solution"),
        (("rubrik",), RUBRIC, "did you mean 'rubric'"),
        ("rubric", RUBRIC, "unknown teacher context 'r'"),
    ],
)
def test_a_context_that_cannot_be_filled_is_refused_instead_of_left_out(context, rubric, message):
    with pytest.raises(ValueError, match=message):
        prompts.teacher(Problem("q2", "Q?", "A"), context, rubric)


def test_an_analysis_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to analyse"):
        prompts.analyst(PROBLEM, ("rubric",), Rubric(()))


@both_wordings
def test_after_the_analysis_comes_a_turn_that_ends_in_the_prompt_of_the_student(wording):
    context = ("reference", "rubric")
    messages = prompts.after_analysis(PROBLEM, context, RUBRIC, wording, analysis="ANALYSIS")
    assert messages[:1] == prompts.analyst(PROBLEM, context, RUBRIC, wording)
    assert messages[1] == Message("assistant", "ANALYSIS")
    assert messages[2].role == "user" and messages[2].content.endswith(prompts.student(PROBLEM, wording)[0].content)
    assert not any(mark in messages[2].content for mark in MARKS.values())


def test_what_follows_the_analysis_is_the_common_end_of_two_encodings():
    def encode(messages):  # as a chat template does it: a marker for each turn, and an open turn at the end
        words = [w for m in messages for w in (f"<{m.role}>", *m.content.split(), "<end>")]
        return [*words, "<assistant>"]

    context = ("rubric",)
    ends = [encode(prompts.after_analysis(PROBLEM, context, RUBRIC, analysis=word)) for word in ("yes", "no")]
    common = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*map(reversed, ends), strict=False)))
    suffix = [pair[0] for pair in reversed(common)]
    spliced = encode(prompts.analyst(PROBLEM, context, RUBRIC)) + ["any", "words"] + suffix
    assert spliced == encode(prompts.after_analysis(PROBLEM, context, RUBRIC, analysis="any words"))


@both_wordings
def test_choices_are_lettered_lines_and_the_reference_names_letter_and_text(wording):
    problem = Problem("q", "Which?", "B", choices=("red", "blue"))
    assert "Which?\nA) red\nB) blue" in text_of(prompts.student(problem, wording))
    assert "B) blue" in text_of(prompts.teacher(problem, ("reference",), None, wording)).split("B) blue", 1)[1]
    with pytest.raises(ValueError, match="27 choices"):
        prompts.student(Problem("q", "Which?", "B", choices=("x",) * 27), wording)


def test_the_standard_wording_says_how_to_give_the_answer_to_every_role_that_solves():
    choice = Problem("q", "Which?", "B", choices=("red", "blue"))
    for messages in (prompts.student(PROBLEM), prompts.teacher(PROBLEM, ("rubric",), RUBRIC)):
        assert text_of(messages).endswith(STANDARD.instruction) and r"\boxed{}" in STANDARD.instruction
    assert text_of(prompts.student(choice)).endswith(STANDARD.instruction_choice) and "letter" in text_of(
        prompts.student(choice)
    )
    assert r"\boxed{}" not in text_of(prompts.analyst(PROBLEM, ("rubric",), RUBRIC))


def test_the_compact_wording_is_as_short_as_it_can_be():
    lines = "Law: Names the LAWTEXT (9)\nSlip: Forgets the unit (-1)"
    context = ("reference", "rubric")
    assert text_of(prompts.student(PROBLEM, COMPACT)) == "Which QUESTION?"
    assert text_of(prompts.rubric_writer(PROBLEM, "paper", COMPACT)) == "rubric\nWhich QUESTION?"
    assert text_of(prompts.rubric_teacher(PROBLEM, "released", COMPACT)) == (
        f"rubric\nWhich QUESTION?\nreference: ANSWERTEXT\nrubric: {to_json(TRUTH)}"
    )
    assert text_of(prompts.teacher(PROBLEM, context, RUBRIC, COMPACT)) == (
        f"Which QUESTION?\nreference: ANSWERTEXT\nrubric: {lines}"
    )


def test_the_standard_teacher_reads_the_rubric_as_the_canonical_json_that_the_writer_writes():
    text = text_of(prompts.teacher(PROBLEM, ("rubric",), RUBRIC))
    assert to_json(RUBRIC) in text and parse(text, origin="ground_truth") == RUBRIC


@both_wordings
@given(st.text(alphabet="{}0question %s\\<|>", max_size=30))
def test_text_from_data_is_never_read_as_a_template(wording, text):
    problem = Problem("q", text + "?", text + "!", solution=text + ".")
    made = prompts.teacher(problem, ("reference", "solution"), None, wording)
    for part in (text + "?", text + "!", text + "."):
        assert part in text_of(made)
    assert text + "?" in text_of(prompts.after_analysis(problem, ("reference",), None, wording, analysis="a"))
