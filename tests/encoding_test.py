"""Problems become token ids, and a sampled analysis is spliced into a prompt without a token lost."""

import dataclasses

import pytest
import tiny_tokenizers

from rcsd_jax import config, data, lm, questions, rubrics
from rcsd_jax.encoding import Encoder
from rcsd_jax.types import Criterion, Message, Problem, Rubric

PROBLEM = Problem(
    "p", "What is 2 + 2?", "4", solution="2 + 2 = 4", rubric=Rubric((Criterion("Sum", "Essential: adds.", 7.0),))
)
OTHER = Rubric((Criterion("Other", "Essential: another line.", 3.0),), origin="learned")
COMPACT = config.Prompts(wording="compact")


@pytest.fixture(scope="module")
def science():
    """The tokenizer of the science world, and a problem of it."""
    tokenizer = lm.ChatTokenizer.from_tokenizer(
        data.science.build_tokenizer(), data.science.CHAT_TEMPLATE, eos=data.science.EOS, pad=data.science.PAD
    )
    small = data.science.ScienceConfig(pretrain=200, train=8, rubric=8, eval=8, transfer=4)
    return tokenizer, questions.load(config.Data(science=small), "train")


@pytest.fixture(scope="module")
def qwen_like():
    return lm.ChatTokenizer.from_tokenizer(
        tiny_tokenizers.byte_level(), tiny_tokenizers.QWEN3_LIKE, eos="<|im_end|>", pad="<|endoftext|>"
    )


def test_the_student_sees_the_question_alone(science):
    tokenizer, problems = science
    encoder = Encoder(tokenizer, COMPACT)
    for problem in problems:
        text = tokenizer.decode(encoder.student(problem))
        assert problem.question in text
        assert encoder.teacher(problem, (), None) == encoder.student(problem)
        for context in (("reference",), ("solution",), ("rubric",)):
            guided = encoder.teacher(problem, context, problem.rubric)
            assert len(guided) > len(encoder.student(problem))
            assert problem.question in tokenizer.decode(guided)


def test_the_task_decides_what_student_and_teacher_are_asked(qwen_like):
    answers, rubric_writer = Encoder(qwen_like, config.Prompts()), Encoder(qwen_like, config.Prompts(), "rubric")
    assert answers.student(PROBLEM) == answers.answer_prompt(PROBLEM)
    assert rubric_writer.student(PROBLEM) == rubric_writer.rubric_prompt(PROBLEM, "paper")
    assert rubric_writer.teacher(PROBLEM, (), None) == rubric_writer.guided_rubric_prompt(PROBLEM, "paper")
    released = Encoder(qwen_like, config.Prompts(profile="released"), "rubric")
    assert released.student(PROBLEM) == rubric_writer.rubric_prompt(PROBLEM, "released")
    assert "adds" in qwen_like.decode(released.teacher(PROBLEM, (), None))


def test_thinking_is_set_for_each_role_alone(qwen_like):
    settings = config.Prompts(
        student_thinking="off", teacher_thinking="on", writer_thinking="default", analyst_thinking="off"
    )
    encoder = Encoder(qwen_like, settings)
    no_thinking = qwen_like.encode_chat([Message("user", "?")], thinking=False)[-6:]  # ends in an empty <think> block
    for prompt in (encoder.answer_prompt(PROBLEM), encoder.analyst(PROBLEM, ("reference",), None)):
        assert prompt[-6:] == no_thinking
    for prompt in (encoder.guided_answer_prompt(PROBLEM, ("reference",), None), encoder.rubric_prompt(PROBLEM)):
        assert prompt[-6:] != no_thinking


@pytest.mark.parametrize("wording", ["compact", "standard"])
@pytest.mark.parametrize("context", [("reference",), ("rubric",), ("reference", "solution", "rubric")])
@pytest.mark.parametrize("kind", ["science", "qwen_like"])
def test_prompt_and_analysis_and_what_follows_are_the_whole_conversation(kind, context, wording, request):
    if kind == "science":
        tokenizer, [problem, *_] = request.getfixturevalue("science")
        analysis = tokenizer.decode(tokenizer.encode(problem.solution))
    else:
        tokenizer, problem, analysis = request.getfixturevalue("qwen_like"), PROBLEM, "First add 2, then think."
    encoder = Encoder(tokenizer, config.Prompts(wording=wording, teacher_thinking="off"))
    rubric = problem.rubric
    before, after = encoder.analyst(problem, context, rubric), encoder.after_analysis(problem, context, rubric)
    messages = rubrics.prompts.after_analysis(problem, context, rubric, rubrics.WORDINGS[wording], analysis=analysis)
    whole = tokenizer.encode_chat(messages, thinking=False)
    spliced = [*before, *tokenizer.encode(analysis), *after]
    if kind == "science":
        assert spliced == whole
    else:  # this template writes an empty <think> block before every reply; what was sampled after one has it once
        assert spliced[len(before) :] == whole[len(whole) - len(spliced) + len(before) :]
    assert tokenizer.decode(encoder.answer_prompt(problem)) in tokenizer.decode(after) or kind == "qwen_like"


def test_what_follows_an_analysis_closes_its_turn_and_repeats_the_question(science):
    tokenizer, problems = science
    encoder = Encoder(tokenizer, COMPACT)
    for problem in problems:
        after = encoder.after_analysis(problem, ("rubric",), problem.rubric)
        assert after[0] == tokenizer.eos_ids[0]
        assert problem.question in tokenizer.decode(after)
        assert after == encoder.after_analysis(problem, ("rubric",), OTHER), "it knows nothing of the guidance"


def test_a_target_is_the_text_and_the_end_of_turn(science):
    tokenizer, problems = science
    encoder = Encoder(tokenizer, COMPACT)
    for problem in problems:
        *ids, end = encoder.target(problem.solution)
        assert end == tokenizer.eos_ids[0]
        assert tokenizer.decode(ids) == problem.solution


@pytest.mark.parametrize(
    ("task", "profile", "context", "rubric", "problem", "missing"),
    [
        ("answer", "paper", ("reference",), None, PROBLEM, None),
        ("answer", "paper", ("rubric",), None, PROBLEM, "rubric"),
        ("answer", "paper", ("rubric",), OTHER, dataclasses.replace(PROBLEM, rubric=None), None),
        ("answer", "paper", ("solution",), None, dataclasses.replace(PROBLEM, solution=None), "solution"),
        ("rubric", "paper", ("rubric",), None, PROBLEM, None),
        ("rubric", "released", (), OTHER, dataclasses.replace(PROBLEM, rubric=None), "rubric"),
    ],
)
def test_a_problem_says_what_its_teacher_would_miss(qwen_like, task, profile, context, rubric, problem, missing):
    encoder = Encoder(qwen_like, config.Prompts(profile=profile), task)
    assert encoder.missing(problem, context, rubric) == missing
    if missing:
        with pytest.raises(ValueError, match=f"has no {missing} to show"):
            encoder.teacher(problem, context, rubric)
    else:
        encoder.teacher(problem, context, rubric)
