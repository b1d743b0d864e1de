"""What every role but the judge is asked, and all the words that it is asked in.

A function gives the chat messages of one role for one problem; a ``Wording`` holds the texts. ``STANDARD`` is for
language models, ``COMPACT`` for a small model with a small vocabulary, where every token counts. Text from data is
only ever put *into* a template, never read as one, and turning messages into tokens is the tokenizer's business.

Reason-first, on tokens. The teacher's prompt is: the analyst's prompt, the analysis as it was sampled, and a last user
turn. ``after_analysis`` gives all three as messages. The tokens behind the analysis do not depend on it, so encode the
conversation twice, with two one-word analyses that share no token: the longest common end of the two is what follows
any analysis (its end-of-turn token, the last user turn, the opening of the answer). Then

    ids(analyst(...)) + sampled analysis without its end-of-sequence token + common end

is the teacher's prompt, with no sampled token decoded or lost.
"""

from __future__ import annotations

import dataclasses
import difflib
import string
from collections.abc import Callable, Sequence

from rcsd_jax.rubrics.rubric import to_json, whole
from rcsd_jax.types import Message, Problem, Rubric

# What a teacher may see besides the question; a context is any subset.
TEACHER_CONTEXTS = ("reference", "solution", "rubric")
# What the writer of a rubric and its teacher see in stage 1, in both profiles of the method.
WRITER_PROFILES: dict[str, tuple[str, ...]] = {"paper": (), "released": ("reference",)}
RUBRIC_TEACHER_PROFILES: dict[str, tuple[str, ...]] = {"paper": ("reference",), "released": ("reference", "rubric")}


def rubric_as_lines(rubric: Rubric) -> str:
    """``title: description (weight)``, one line a criterion: about half the tokens of JSON."""
    return "\n".join(f"{c.title}: {c.description} ({whole(c.weight)})" for c in rubric.criteria)


@dataclasses.dataclass(frozen=True)
class Wording:
    """The templates. Fields in braces are filled in; ``guidance`` is every section of the context behind a ``gap``."""

    student: str  # {question} {instruction}
    instruction: str  # how to give the final answer
    instruction_choice: str  # the same for multiple choice
    teacher: str  # {question} {guidance} {instruction}
    analyst: str  # {question} {guidance}
    transition: str  # {student}: the student's whole prompt
    writer: str  # {question} {guidance}
    gap: str
    reference: str  # {text}, as in the next three
    solution: str
    rubric: str
    target_rubric: str
    no_reference: str
    rubric_text: Callable[[Rubric], str]  # how a teacher sees a rubric; the writer always writes JSON


STANDARD = Wording(
    student="{question}\n\n{instruction}",
    instruction=r"Reason step by step, then give your final answer in \boxed{}.",
    instruction_choice=r"Reason step by step, then give the letter of the one right option in \boxed{}.",
    teacher="""\
{question}

Below is material about this problem that nobody but you can see.{guidance}

Let the material guide your reasoning without a trace of it in the text: write the solution as if you had found it \
on your own, complete and self-contained, and do not mention, quote or judge the material.

{instruction}""",
    analyst="""\
{question}

Somebody left guidance for this problem.{guidance}

Study the guidance before anybody solves the problem. In a few sentences, say which ideas and steps it points to, how \
they build on each other, and which mistakes it warns of. Guidance can be incomplete or wrong: say what you would \
not rely on. Do not solve the problem here and do not work out its answer.""",
    transition="""\
From here on, the guidance and your analysis are private notes. Rely on them where they are sound, but do not mention \
or allude to them: your next message goes to a reader who has seen nothing except the problem, and must be a complete, \
self-contained solution. The problem once more:

{student}""",
    writer="""\
Write a rubric for grading solutions to the problem below.

Problem:
{question}{guidance}

The rubric is a JSON array of 3 to 25 objects, one for each criterion, with the fields
"title": two to five words;
"description": one sentence of at most 40 words that starts with "Essential:", "Important:", "Optional:" or \
"Pitfall:" and says what a grader should look for;
"weight": an integer, 7 to 10 if essential, 3 to 6 if important, 1 or 2 if optional, negative for a pitfall, that is a \
mistake that should cost points.
Make each criterion specific to this problem and checkable on its own. Follow the reasoning that a good solution needs \
instead of stating the final answer. Include at least one pitfall. Print the JSON array and nothing else.""",
    gap="\n\n",
    reference="Reference answer:\n{text}",
    solution="Worked solution, possibly with mistakes:\n{text}",
    rubric="Grading rubric, a higher weight matters more and a negative weight marks a mistake:\n{text}",
    target_rubric="An expert's rubric for this problem. Treat it as the target; print the JSON array only:\n{text}",
    no_reference="Reference answer:\nThere is none for this problem.",
    rubric_text=to_json,
)

COMPACT = Wording(
    student="{question}",
    instruction="",
    instruction_choice="",
    teacher="{question}{guidance}",
    analyst="analysis\n{question}{guidance}",
    transition="{student}",
    writer="rubric\n{question}{guidance}",
    gap="\n",
    reference="reference: {text}",
    solution="solution: {text}",
    rubric="rubric: {text}",
    target_rubric="rubric: {text}",
    no_reference="reference: none",
    rubric_text=rubric_as_lines,
)

WORDINGS = {"standard": STANDARD, "compact": COMPACT}


def student(problem: Problem, wording: Wording = STANDARD) -> list[Message]:
    """The question and how to answer it; all that the learner ever sees."""
    return _user(_fill(wording.student, problem, wording))


def teacher(
    problem: Problem, context: Sequence[str], rubric: Rubric | None = None, wording: Wording = STANDARD
) -> list[Message]:
    """The question with its context, to be answered as if there were none.

    Args:
      problem: its answer and solution are shown where ``context`` says so.
      context: any of ``TEACHER_CONTEXTS``, in any order. With nothing to show (or only an empty rubric, the control
        "none") this is the student's prompt.
      rubric: needed where the context has "rubric"; ``problem.rubric`` is never looked at.
      wording: the templates.

    Raises:
      ValueError: an unknown context, or one that this problem cannot fill. A missing reference answer is no error,
        a sentence stands in for it.
    """
    guidance = _guidance(problem, context, rubric, wording)
    return _user(_fill(wording.teacher if guidance else wording.student, problem, wording, guidance))


def context_alone(
    problem: Problem, context: Sequence[str], rubric: Rubric | None = None, wording: Wording = STANDARD
) -> list[Message]:
    """``teacher`` without the question and its choices; arguments and errors as of ``teacher``."""
    guidance = _guidance(problem, context, rubric, wording)
    text = wording.teacher.format(question="", instruction=_instruction(problem, wording), guidance=guidance)
    return _user(text.strip())


def analyst(
    problem: Problem, context: Sequence[str], rubric: Rubric | None = None, wording: Wording = STANDARD
) -> list[Message]:
    """The question with its context, to be analysed and not solved; arguments and errors as of ``teacher``."""
    guidance = _guidance(problem, context, rubric, wording)
    if not guidance:
        raise ValueError(f"problem {problem.id}: reason-first has nothing to analyse, {context=} shows nothing")
    return _user(_fill(wording.analyst, problem, wording, guidance))


def after_analysis(
    problem: Problem,
    context: Sequence[str],
    rubric: Rubric | None = None,
    wording: Wording = STANDARD,
    *,
    analysis: str,
) -> list[Message]:
    """``analyst``, its reply, and the turn that asks for the solution and ends in the student's own prompt."""
    [asked] = student(problem, wording)
    last = Message("user", wording.transition.format(student=asked.content))
    return [*analyst(problem, context, rubric, wording), Message("assistant", analysis), last]


def rubric_writer(problem: Problem, profile: str = "paper", wording: Wording = STANDARD) -> list[Message]:
    """Asks for a rubric as JSON: from the question ("paper"), or from question and reference answer ("released")."""
    guidance = _guidance(problem, WRITER_PROFILES[profile], None, wording)
    return _user(_fill(wording.writer, problem, wording, guidance))


def rubric_teacher(problem: Problem, profile: str = "paper", wording: Wording = STANDARD) -> list[Message]:
    """``rubric_writer`` as its teacher sees it: with the reference answer, "released" also with ``problem.rubric``."""
    target = dataclasses.replace(wording, rubric=wording.target_rubric, rubric_text=to_json)
    guidance = _guidance(problem, RUBRIC_TEACHER_PROFILES[profile], problem.rubric, target)
    return _user(_fill(wording.writer, problem, wording, guidance))


def question_text(problem: Problem) -> str:
    """The question, and under it the choices of a multiple-choice question as "A) ..." lines.

    Raises:
      ValueError: more choices than letters.
    """
    letters = string.ascii_uppercase
    if len(problem.choices) > len(letters):
        raise ValueError(
            f"problem {problem.id} has {len(problem.choices)} choices, at most {len(letters)} have letters"
        )
    lines = (f"{letter}) {choice}" for letter, choice in zip(letters, problem.choices, strict=False))
    return "\n".join((problem.question, *lines))


def _fill(template: str, problem: Problem, wording: Wording, guidance: str = "") -> str:
    instruction = _instruction(problem, wording)
    return template.format(question=question_text(problem), instruction=instruction, guidance=guidance)


def _instruction(problem: Problem, wording: Wording) -> str:
    return wording.instruction_choice if problem.choices else wording.instruction


def _guidance(problem: Problem, context: Sequence[str], rubric: Rubric | None, wording: Wording) -> str:
    """The sections of a context in the order of ``TEACHER_CONTEXTS``, each behind a gap; "" if there is none."""
    for name in context:
        if name not in TEACHER_CONTEXTS:
            near = difflib.get_close_matches(name, TEACHER_CONTEXTS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown teacher context {name!r}, choose from {TEACHER_CONTEXTS}{hint}")
    sections = []
    if "reference" in context:
        known = problem.answer.strip()
        sections.append(wording.reference.format(text=_reference(problem)) if known else wording.no_reference)
    if "solution" in context:
        if not problem.solution:
            raise ValueError(f"problem {problem.id} has no solution to show; leave it out, or change the context")
        sections.append(wording.solution.format(text=problem.solution))
    if "rubric" in context:
        if rubric is None:
            raise ValueError(f"problem {problem.id} has no rubric to show; leave it out, or change the context")
        if rubric.criteria:
            sections.append(wording.rubric.format(text=wording.rubric_text(rubric)))
    return "".join(wording.gap + section for section in sections)


def _reference(problem: Problem) -> str:
    """The answer; the letter of a choice comes with its text, "B) 4 N"."""
    letters = string.ascii_uppercase[: len(problem.choices)]
    at = letters.find(problem.answer) if len(problem.answer) == 1 else -1
    return f"{problem.answer}) {problem.choices[at]}" if at >= 0 else problem.answer


def _user(content: str) -> list[Message]:
    return [Message("user", content)]
