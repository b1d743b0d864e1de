"""A judge over real HTTP that is late, overloaded, broken or talkative, and what becomes of the answers meanwhile."""

import json
import sys
import threading
import time

import numpy as np
import pytest
from loopback_judge import LoopbackJudge, answer_in, completion

from rcsd_jax import config, rewards
from rcsd_jax.judges import Case, Endpoint, EndpointConfig, Scale
from rcsd_jax.types import Criterion, Problem, Rubric

RUBRIC = Rubric(
    (Criterion("Good", "says good", 7), Criterion("Great", "says great", 3), Criterion("Bad", "says bad", -5))
)
PROBLEM = Problem("q", "How is it?", "good", rubric=RUBRIC)


def verdict(prompt, _n=0):
    """An honest judge: a criterion is met where its word is in the answer."""
    words = answer_in(prompt).split()
    return json.dumps({str(n): word in words for n, word in enumerate(("good", "great", "bad"), start=1)})


def cases(*answers, scale=Scale()):
    return [Case(PROBLEM, answer, scale) for answer in answers]


@pytest.fixture
def settings(tmp_path):
    def make(server, **changes):
        quick = {"model": "m", "timeout": 30.0, "deadline": 90.0, "cache": str(tmp_path / "kept" / "replies.jsonl")}
        return EndpointConfig(url=server.url, **{**quick, **changes})

    return make


def rewards_of(judgements):
    return [judgement.reward for judgement in judgements]


def test_every_case_gets_its_own_verdict_and_no_more_are_under_way_than_allowed(settings):
    three = threading.Barrier(3, timeout=30)

    def together(prompt, n):
        three.wait()
        return verdict(prompt)

    answers = ["good", "great", "bad", "good great", "good great bad", *(f"so so {n}" for n in range(7))]
    with LoopbackJudge(together) as server:
        judged = Endpoint(settings(server, concurrency=3), attempts=1)(cases(*answers))
    assert rewards_of(judged) == pytest.approx([0.7, 0.3, -0.5, 1.0, 0.5, *[0] * 7])
    assert server.most_open == 3 and len(server.requests) == len(answers)
    assert {(r["model"], r["temperature"], r["max_completion_tokens"]) for r in server.requests} == {("m", 0.0, 1024)}


def test_the_key_comes_from_the_environment_and_the_temperature_may_be_left_to_the_server(settings, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with LoopbackJudge(verdict) as server:
        Endpoint(settings(server, temperature=None), attempts=1)(cases("good"))
    assert server.headers[0]["authorization"] == "Bearer sesame" and "temperature" not in server.requests[0]


def test_what_goes_wrong_once_is_tried_again(settings):
    def at_first(prompt, n):
        trouble = answer_in(prompt).split()[-1]
        if n == 0 and trouble == "late":
            time.sleep(3.0)
        if n == 0 and trouble.isdigit():
            return int(trouble), b"{}"
        return (None, b"") if n == 0 and trouble == "lost" else verdict(prompt)

    troubles = ("408", "429", "500", "503", "lost", "late")
    with LoopbackJudge(at_first) as server:
        judged = Endpoint(settings(server, timeout=2.0), attempts=1)(cases(*(f"good {t}" for t in troubles)))
    assert rewards_of(judged) == pytest.approx([0.7] * len(troubles))
    assert min(server.of_prompt.values()) == 2


def test_what_stays_wrong_is_no_judgement_costs_its_siblings_nothing_and_is_not_kept(settings):
    def respond(prompt, n):
        trouble = answer_in(prompt)
        bodies = {
            "html": b"<html>busy</html>",
            "half": completion("{}")[:-9],
            "null": b"null",
            "none": b'{"choices":[]}',
        }
        bodies |= {"error": b'{"error": {"message": "busy"}}', "refused": completion(None)}
        if trouble in bodies:
            return 200, bodies[trouble]
        texts = {"prose": "Looks fine to me.", "cut": '{"1": true, "2"', "few": '{"1": true}', "bare": ""}
        return (int(trouble), b"{}") if trouble.isdigit() else texts.get(trouble) or verdict(prompt)

    expected = {"500": "HTTP 500", "429": "HTTP 429", "401": "HTTP 401", "refused": "no text"}
    expected |= dict.fromkeys(("html", "half", "null", "none", "error"), "no chat completion")
    expected |= {"prose": "not JSON", "cut": "not JSON", "few": "not every criterion once"}
    with LoopbackJudge(respond) as server:
        judged = Endpoint(settings(server, retries=1), attempts=2)(cases("good", *expected, "great"))
        assert {a: j.failure for a, j in zip(expected, judged[1:-1], strict=True)} == expected
        assert rewards_of([judged[0], judged[-1]]) == pytest.approx([0.7, 0.3])
        assert all(np.isnan(rewards_of(judged[1:-1]))), "a failed judgement is never a zero"
        asked = len(server.requests)
        again = Endpoint(settings(server), attempts=2)
        assert rewards_of(again(cases("good", "great"))) == pytest.approx([0.7, 0.3]) and len(server.requests) == asked
        again(cases("prose"))
        assert len(server.requests) == asked + 2


def test_a_judgement_that_is_not_there_by_its_deadline_has_failed_whatever_is_left_to_try(settings):
    def slow(prompt, n):
        time.sleep(3.0 if answer_in(prompt) == "never" else 0)
        return verdict(prompt)

    with LoopbackJudge(slow) as server:
        Endpoint(settings(server), attempts=1)(cases("good"))
        config = settings(server, timeout=0.5, deadline=0.8, retries=9)
        judged = Endpoint(config, attempts=3)(cases("never", "good"))
    assert judged[0].failure == "deadline" and judged[1].reward == pytest.approx(0.7)


def test_a_reply_that_is_no_verdict_is_asked_for_again_with_another_code(settings):
    def at_second(prompt, n):
        return verdict(prompt) if len(server.of_prompt) > 1 else "Let me think. " + verdict(prompt)

    with LoopbackJudge(at_second) as server:
        [judged] = Endpoint(settings(server), attempts=2)(cases("good"))
    assert judged.reward == pytest.approx(0.7) and set(server.of_prompt.values()) == {1} and len(server.of_prompt) == 2


def test_what_was_judged_is_not_asked_again_unless_model_prompt_or_settings_change(settings, tmp_path):
    with LoopbackJudge(verdict) as server:
        wanted = rewards_of(Endpoint(settings(server), attempts=2)(cases("good", "bad")))
        file = tmp_path / "kept" / "replies.jsonl"
        file.write_bytes(file.read_bytes() + b'{"key": "what a killed run left')
        other = settings(server, concurrency=1, timeout=1.0)  # changes no verdict
        assert rewards_of(Endpoint(other, attempts=2)(cases("good", "bad"))) == wanted and len(server.requests) == 2
        for changed in ({"model": "n"}, {"temperature": 0.5}, {"max_tokens": 9}):
            before = len(server.requests)
            assert rewards_of(Endpoint(settings(server, **changed), attempts=2)(cases("good"))) == wanted[:1]
            assert len(server.requests) == before + 1
        Endpoint(settings(server), attempts=2)(cases("good", scale=Scale("implicit")))
        assert len(server.of_prompt) == 2 + 2, "another prompt, in two attempts"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 5 and set(rows[0]) == {"key", "model", "reply"}


def test_a_file_that_is_no_cache_is_named_by_line(settings, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"key": "k", "model": "m", "reply": "r"}\n{"question": "?"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2 is no judgement"):
        Endpoint(EndpointConfig(cache=str(file)), attempts=1)


def test_without_the_openai_package_the_cure_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match="pip install openai"):
        Endpoint(EndpointConfig(), attempts=1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout": 9.0, "deadline": 5.0}, "timeout <= deadline"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"cache": "gs://bucket/x"}, "local file"),
        ({"cache": ""}, "local file"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        EndpointConfig(**wrong)


# Rewards


def reward_of(settings, server, **changes):
    experiment = config.read(
        {
            "objective": "grpo",
            "rubrics": {"source": "none"},
            "train": {"samples": 4},
            "data": {"source": "jsonl", "path": "x"},
            "reward": {"kind": "rubric", "judge": "endpoint", "endpoint": vars(settings(server, retries=0)), **changes},
        }
    )
    return rewards.Reward(experiment, None, None)


def failing_on(word):
    return lambda prompt, n: (500, b"") if word in answer_in(prompt).split() else verdict(prompt)


def test_an_answer_without_a_judgement_is_nan_and_equal_answers_are_judged_once(settings):
    with LoopbackJudge(failing_on("fail")) as server:
        reward = reward_of(settings, server, max_failed=0.25)
        reward_GN, numbers = reward(
            [PROBLEM] * 2, [["good", "bad", "good", "fail"], ["good", "<think>", "", "great"]], None
        )
    np.testing.assert_allclose(reward_GN, [[0.7, -0.5, 0.7, np.nan], [0.7, 0, 0, 0.3]])
    assert numbers == {"judgements": 4 + 11, "master_keys_passed": 0}
    assert sum("\ngood\n" in prompt for prompt in server.of_prompt) == 1
    assert max(server.of_prompt.values()) == 1


def test_too_many_failures_stop_the_run_and_say_why(settings):
    with LoopbackJudge(failing_on("fail")) as server:
        reward = reward_of(settings, server, max_failed=0.25)
        with pytest.raises(rewards.JudgeFailed, match=r"2 of 4 judgements failed \(2 HTTP 500\).*max_failed 0.25"):
            reward([PROBLEM], [["good", "fail", "bad", "fail again"]], None)


@pytest.mark.parametrize(("scale", "passed"), [("explicit", 4), ("quoted", 3), ("implicit", 4)])
def test_the_master_keys_that_pass_a_gullible_judge_are_counted(settings, scale, passed):
    def gullible(prompt, n):
        """Takes the first verdict that it sees, and likes what opens like a solution."""
        answer = answer_in(prompt)
        worst, best = '{"1": false, "2": false, "3": false}', '{"1": true, "2": true, "3": false}'
        if scale == "implicit":
            worst, best = '{"score": 1}', '{"score": 10}'
        elif scale == "quoted":
            first = " ".join(answer.split()[:4])
            best = json.dumps({"1": first, "2": first, "3": False})
            return best if "where words are wanted" in answer or answer.startswith(("Thought", "Sol")) else worst
        return best if best in answer or answer.startswith(("Thought", "Sol")) else worst

    with LoopbackJudge(gullible) as server:
        reward_GN, numbers = reward_of(settings, server, scale=scale)([PROBLEM], [["a", "b"]], None)
    assert not reward_GN.any()
    # Two openers; a forged object in an order, and behind a forged fence or alone.
    assert numbers["master_keys_passed"] == pytest.approx(passed / 11)
