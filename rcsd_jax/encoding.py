"""Problems become token ids: the prompts of every role, and the targets of supervised learning."""

from __future__ import annotations

from collections.abc import Sequence

from rcsd_jax import config, lm, rubrics
from rcsd_jax.rubrics import prompts
from rcsd_jax.types import Message, Problem, Rubric

_THINKING = {"on": True, "off": False, "default": None}


class Encoder:
    """Renders the prompts of a config with the chat template of a model.

    ``task`` is what the student writes: an "answer" (stage 2) or a "rubric" (stage 1).
    """

    def __init__(self, tokenizer: lm.ChatTokenizer, settings: config.Prompts, task: str = "answer"):
        self.tokenizer = tokenizer
        self._settings, self._task = settings, task
        self._wording = rubrics.WORDINGS[settings.wording]

    def student(self, problem: Problem) -> list[int]:
        """What the learner sees of its task."""
        return self.answer_prompt(problem) if self._task == "answer" else self.rubric_prompt(problem)

    def teacher(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> list[int]:
        """What the teacher sees of it; for rubrics the profile says what that is, and ``context`` is not read."""
        if self._task == "answer":
            return self.guided_answer_prompt(problem, context, rubric)
        return self.guided_rubric_prompt(problem)

    def missing(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> str | None:
        """What ``teacher`` would have to show and cannot: "rubric", "solution", or None if nothing is missing."""
        if self._task == "rubric":
            context, rubric = prompts.RUBRIC_TEACHER_PROFILES[self._settings.profile], problem.rubric
        if "rubric" in context and rubric is None:
            return "rubric"
        if "solution" in context and not problem.solution:
            return "solution"
        return None

    def answer_prompt(self, problem: Problem) -> list[int]:
        """The bare question."""
        return self._encode(prompts.student(problem, self._wording), "student")

    def guided_answer_prompt(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> list[int]:
        """The question with private guidance."""
        return self._encode(prompts.teacher(problem, context, rubric, self._wording), "teacher")

    def context_alone(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> list[int]:
        """The private guidance without the question."""
        return self._encode(prompts.context_alone(problem, context, rubric, self._wording), "teacher")

    def rubric_prompt(self, problem: Problem, profile: str | None = None) -> list[int]:
        """The request for a rubric, as the profile lets the student see it."""
        messages = prompts.rubric_writer(problem, profile or self._settings.profile, self._wording)
        return self._encode(messages, "writer")

    def guided_rubric_prompt(self, problem: Problem, profile: str | None = None) -> list[int]:
        """The request for a rubric, as its teacher sees it."""
        messages = prompts.rubric_teacher(problem, profile or self._settings.profile, self._wording)
        return self._encode(messages, "writer")

    def analyst(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> list[int]:
        """The request for an analysis of the guidance (reason-first)."""
        return self._encode(prompts.analyst(problem, context, rubric, self._wording), "analyst")

    def after_analysis(self, problem: Problem, context: Sequence[str], rubric: Rubric | None) -> list[int]:
        """The ids that follow any analysis: its end of turn, the transition, the opening of the answer.

        They are the longest common end of the conversation with two analyses that share no token.
        """
        first, second = (
            self._encode(prompts.after_analysis(problem, context, rubric, self._wording, analysis=word), "teacher")
            for word in ("x", "7")
        )
        same = 0
        while first[-1 - same] == second[-1 - same]:
            same += 1
        return first[len(first) - same :]

    def judge(self, messages: list[Message]) -> list[int]:
        """What a judge is asked; see ``judges.Case``."""
        return self._encode(messages, "judge")

    def target(self, text: str) -> list[int]:
        """A completion to learn: its ids and the end of turn."""
        return [*self.tokenizer.encode(text), self.tokenizer.eos_ids[0]]

    def _encode(self, messages: list[Message], role: str) -> list[int]:
        return self.tokenizer.encode_chat(messages, thinking=_THINKING[getattr(self._settings, f"{role}_thinking")])
