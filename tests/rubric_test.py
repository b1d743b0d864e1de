"""Rubrics are read from whatever a model writes, or refused with the right reason."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcsd_jax import rubrics
from rcsd_jax.rubrics.rubric import count_duplicates
from rcsd_jax.types import Criterion, Problem, Rubric

ITEMS = [
    {"title": "Names the law", "description": "Essential: Names Newton's second law.", "weight": 9},
    {"title": "Right units", "description": "Important: Gives the force in newtons.", "weight": 5},
    {"title": "Mixes up mass", "description": "Pitfall: Takes the weight for the mass.", "weight": -1},
]
ARRAY = json.dumps(ITEMS)
GOOD = Rubric(tuple(Criterion(i["title"], i["description"], float(i["weight"])) for i in ITEMS), "learned")


def reason_of(text, **kwargs):
    with pytest.raises(rubrics.RubricError) as caught:
        rubrics.parse(text, **kwargs)
    return caught.value.reason


def of(*descriptions, weights=None):
    weights = weights or [1.0] * (len(descriptions) - 1) + [-1.0]
    return Rubric(tuple(Criterion("title", d, w) for d, w in zip(descriptions, weights, strict=True)))


@pytest.mark.parametrize(
    "text",
    [
        ARRAY,
        f"  {ARRAY}\n<|im_end|>",
        f"Here is the rubric:\n```json\n{json.dumps(ITEMS, indent=2)}\n```\nHope it helps [1].",
        f'<think>\nMaybe [{{"title": "draft"}}] ...\n</think>\n\n{ARRAY}',
        f'the prompt opened this thought [{{"title": "x", "description": "y", "weight": 1}}]</think>{ARRAY}',
        f"<think>a</think><think>b</think>{ARRAY}",
        json.dumps({"rubric_list": ITEMS, "rubric_count": 3}),
        f"A force [in N] on [[x]] [] [1, 2]: {ARRAY}",
        f'[{{"note": "not a criterion"}}] {ARRAY}',
        f"{ARRAY}\n[{{'a second': 'array'}}]",
        ARRAY.replace("law.", "law.\n"),  # a raw line break inside of a string
        json.dumps([{k.upper(): v for k, v in item.items()} | {"tags": ["x"]} for item in ITEMS]),
        json.dumps([{"name": i["title"], "criterion": i["description"], "points": str(i["weight"])} for i in ITEMS]),
        json.dumps([{"criterion": i["title"], "description": i["description"], "score": i["weight"]} for i in ITEMS]),
    ],
)
def test_a_rubric_is_found_in_what_a_model_writes(text):
    assert rubrics.parse(text) == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>done</think>  \n", "empty"),
        (f"<think> let me draft: {ARRAY} hmm", "thinking_never_ended"),
        (f"<think>a</think> and <think> once more {ARRAY}", "thinking_never_ended"),
        ("I cannot help with that.", "no_array"),
        ("[]", "no_array"),
        ("[1, 2, 3]", "no_array"),
        (ARRAY[:-1], "truncated"),
        (ARRAY[:-20], "truncated"),
        (ARRAY[:90] + "\n", "truncated"),
        (f"```json\n{ARRAY[:150]}", "truncated"),
        (ARRAY.replace('"weight": 9', '"weight": nine'), "bad_json"),
        (ARRAY.replace("-1}]", "-1},]"), "bad_json"),
        (ARRAY.replace("Names Newton's", 'Names "Newton"'), "bad_json"),
        ('[{"a":' * 5000, "bad_json"),
        ('[{"title": "t", "description": "d", "weight": ' + "9" * 5000 + "}]", "bad_json"),
        ('[{"title": "t", "description": "d", "weight": 1}, "text"]', "bad_type"),
        ('[{"title": "t", "weight": 1}]', "bad_type"),
        ('[{"title": "t", "description": ["d"], "weight": 1}]', "bad_type"),
        ('[{"title": 3, "description": "d", "weight": 1}]', "bad_type"),
        *[
            (f'[{{"title": "t", "description": "d", "weight": {w}}}]', "bad_weight")
            for w in ('"high"', "NaN", "Infinity", "true", "null", "[1]", "1e999", "9" * 400)
        ],
        ('[{"title": "t", "description": "d"}]', "bad_weight"),
    ],
)
def test_what_is_no_rubric_is_refused_with_its_reason(text, reason):
    assert reason_of(text) == reason
    assert reason in rubrics.REASONS


@given(st.text(alphabet='[]{}",:\\ntf0 <think>/`', max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_gets_more_than_a_rubric_error_out_of_parse(text):
    try:
        rubrics.parse(text)
    except rubrics.RubricError as error:
        assert error.reason in rubrics.REASONS


def test_every_cut_of_a_rubric_inside_the_array_is_called_truncated():
    text = json.dumps([{"description": "\u03a9 is an ohm [or so]", "is_new": True, "weight": -1.5e3}] * 2)
    assert {reason_of("Rubric: " + text[:cut]) for cut in range(2, len(text))} == {"truncated"}


words = st.text(max_size=30)
finite = st.one_of(st.integers(-10, 10).map(float), st.floats(allow_nan=False, allow_infinity=False))
any_rubric = st.lists(st.builds(Criterion, words, words, finite), max_size=6).map(lambda c: Rubric(tuple(c), "learned"))


@given(any_rubric)
def test_canonical_json_gives_the_same_rubric_back(rubric):
    text = rubrics.to_json(rubric)
    assert rubrics.from_json(text, origin="learned") == rubric
    assert rubrics.to_json(rubrics.from_json(text)) == text
    assert "\n" not in text


@given(any_rubric.filter(lambda r: r.criteria))
def test_what_was_parsed_once_parses_to_itself(rubric):
    once = rubrics.parse(rubrics.to_json(rubric))
    assert rubrics.parse(rubrics.to_json(once)) == once
    rubrics.to_json(once).encode("utf-8")


def test_canonical_json_is_one_line_with_whole_weights_as_integers_and_keys_in_order():
    rubric = Rubric((Criterion("Ω", 'says "ohm"', 7.0), Criterion("half", "h", 0.5), Criterion("zero", "z", -0.0)))
    assert rubrics.to_json(rubric) == (
        '[{"title": "Ω", "description": "says \\"ohm\\"", "weight": 7}, '
        '{"title": "half", "description": "h", "weight": 0.5}, {"title": "zero", "description": "z", "weight": 0}]'
    )
    with pytest.raises(ValueError):
        rubrics.to_json(Rubric((Criterion("t", "d", math.nan),)))


def test_formulas_with_lone_backslashes_survive():
    text = r"uses \( \frac{a}{b} \theta \nu \times \\rho \underline{x} \"q\" \u03a9\nNew"
    [criterion] = rubrics.parse('[{"title": "t", "description": "' + text + '", "weight": 1}]').criteria
    assert criterion.description == r"uses \( \frac{a}{b} \theta \nu \times \rho \underline{x}" + ' "q" Ω New'


def test_a_missing_title_is_made_from_the_description_without_its_category():
    [criterion] = rubrics.parse('[{"description": "Pitfall: Forgets to square, as many do", "weight": -1}]').criteria
    assert criterion.title == "Forgets to square, as"


def test_half_of_a_surrogate_pair_does_not_reach_files_or_tokenizers():
    [criterion] = rubrics.parse('[{"title": "t", "description": "bad \\ud83d end", "weight": 1}]').criteria
    assert criterion.description == "bad ? end"


def test_parsing_a_megabyte_of_brackets_takes_no_time():
    assert reason_of('[{"a":1},' * 100_000) in ("truncated", "bad_json")
    assert reason_of("[" * 1_000_000) == "no_array"


def test_a_good_rubric_has_no_findings():
    assert rubrics.validate(GOOD, answer="12 N") == []


@pytest.mark.parametrize(
    ("rubric", "findings"),
    [
        (Rubric(()), ["too_few", "no_negative"]),
        (of("a", "b", "c", weights=[1.0, 2.0, 3.0]), ["no_negative"]),
        (of("a", "b"), ["too_few"]),
        (of(*(f"criterion {i}" for i in range(26))), ["too_many"]),
        (of("a", "b", " "), ["empty_text"]),
        (of("a", "b", "c", weights=[1.0, math.nan, -1.0]), ["bad_weight"]),
        (of("a", "b", "c", weights=[1.0, 11.0, -1.0]), ["bad_weight"]),
        (of("a", "b", "c", weights=[1.0, "5", -1.0]), ["bad_weight"]),
        (of("a", "b", None), ["bad_type"]),
        (of("Essential: Uses  F = m*a.", "uses f = m*a", "c"), ["duplicate"]),
        (of("a", "b", "finds 12 N"), ["gives_answer_away"]),
    ],
)
def test_validation_names_what_is_wrong(rubric, findings):
    assert rubrics.validate(rubric, answer="12 N") == findings


def test_criteria_that_differ_in_an_operator_or_a_number_are_no_duplicates():
    assert count_duplicates(of("use F = m * a", "use F = m / a", "use F = m + a", "is 2.5", "is 25", "is -25")) == 0
    assert count_duplicates(of("Use it.", "use 'it'!", "Important: use it", "Other")) == 2


def test_rules_decide_what_rejects_and_what_only_warns():
    problem = Problem("q", "Which force?", "newtons")
    lenient = rubrics.RubricRules()
    rubric, warnings = rubrics.accept(ARRAY, problem, lenient)
    assert rubric == GOOD and warnings == ["gives_answer_away"]
    with pytest.raises(rubrics.RubricError, match="gives_answer_away"):
        rubrics.accept(ARRAY, problem, rubrics.RubricRules(rejecting=("gives_answer_away",)))
    with pytest.raises(rubrics.RubricError, match="too_few"):
        rubrics.accept(json.dumps(ITEMS[:2]), problem, lenient)


@pytest.mark.parametrize(
    "wrong", [{"rejecting": ("nonsense",)}, {"min_criteria": 9, "max_criteria": 3}, {"min_weight": 1, "max_weight": 1}]
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        rubrics.RubricRules(**wrong)


STATED = {
    "12 N": ["finds 12N", "3 * 4 = 12", "is 12 N.", r"$12\,\mathrm{N}$", r"\boxed{12}"],
    "4": ["the answer is 4", "8 / 2 = 4.", "Final answer: 4", r"\boxed{4}"],
    "B": ["option B", "(B)", "answer is B", "Answer: B", "picks B) here"],
    "no": ["the answer is no"],
    "9.8 m/s^2": ["g = 9.8 m/s²", "9.8 m/s^2", r"9.8\,\text{m/s}^2"],
    "-5": ["gives -5.", "= −5"],
    "1,000 J": ["uses 1000 J"],
    "photosynthesis": ["mentions Photosynthesis"],
}
NOT_STATED = {
    "12 N": ["112 N", "12 N/kg", "12 steps", "0.12 N", "uses 12 and 3", "x = 12.5", "12.5 N", "12 Nm"],
    "4": ["step 4 of", "4 * 3 = 12", "m = 4 kg", "14", "= 4.5", "uses 4"],
    "B": ["the B field", "A B C", "Option Both", "Vitamin B"],
    "no": ["has no unit errors"],
    "9.8 m/s^2": ["9.8 m/s", "9.8 s"],
    "-5": ["5 apples", "= 5."],
    "photosynthesis": ["photosynthesising"],
    "": ["anything"],
}


@pytest.mark.parametrize(("answer", "text"), [(a, t) for a, texts in STATED.items() for t in texts])
def test_a_stated_answer_is_noticed(answer, text):
    assert rubrics.gives_away(Criterion("Title", text, 1.0), answer)


@pytest.mark.parametrize(("answer", "text"), [(a, t) for a, texts in NOT_STATED.items() for t in texts])
def test_a_text_that_only_looks_like_the_answer_is_left_alone(answer, text):
    assert not rubrics.gives_away(Criterion("Title", text, 1.0), answer)


def test_the_words_of_the_right_choice_give_it_away_and_those_of_a_wrong_one_do_not():
    choices = ("the mitochondria", "the cell wall")
    assert rubrics.gives_away(Criterion("t", "Says that it is the cell wall", 1.0), "B", choices)
    assert not rubrics.gives_away(Criterion("t", "Excludes the mitochondria", 1.0), "B", choices)


@given(st.text(max_size=12), st.text(max_size=40))
def test_any_answer_and_any_criterion_can_be_compared(answer, text):
    rubrics.gives_away(Criterion("t", text, 1.0), answer, ("a", "b"))


def test_the_match_with_the_ground_truth_ignores_order_and_categories_and_counts_both_ways():
    match = rubrics.criterion_match(Rubric(tuple(reversed(GOOD.criteria))), GOOD)
    assert (match.precision, match.recall, match.f1) == (1.0, 1.0, 1.0)
    part = rubrics.criterion_match(Rubric(GOOD.criteria[:1]), GOOD)
    assert part.precision == 1.0 and part.recall == pytest.approx(1 / 3) and part.f1 == pytest.approx(0.5)
    assert rubrics.criterion_match(Rubric(()), GOOD).f1 == 0.0


def test_one_criterion_of_the_ground_truth_is_matched_once():
    twice = Rubric(GOOD.criteria[:1] * 2)
    assert rubrics.criterion_match(twice, Rubric(GOOD.criteria[:1])).precision == 0.5


def test_the_pairing_is_the_best_one_and_not_the_greedy_one():
    # Token F1: first-first 1, first-second 2/3, second-first 2/3, second-second 0. Greedy reaches 1, the best 4/3.
    ours = Rubric((Criterion("", "p q r s", 1.0), Criterion("", "r s", 1.0)))
    theirs = Rubric((Criterion("", "p q r s", 1.0), Criterion("", "p q", 1.0)))
    assert rubrics.criterion_match(ours, theirs).precision == pytest.approx(2 / 3)


def test_an_unreadable_rubric_is_invalid_and_matches_nothing():
    problem = Problem("q", "Q?", "12 N", rubric=GOOD)
    matches = dict.fromkeys(("match_precision", "match_recall", "match_f1", "match_exact"), 0)
    assert rubrics.quality(None, problem) == {"valid": 0, **matches}
    mean = rubrics.mean_quality([GOOD, None], [problem, problem])
    assert mean["valid"] == 0.5 and mean["match_f1"] == mean["match_exact"] == 0.5
    assert mean["criteria"] == 3 and mean["negative"] == 1 and mean["giving_answer_away"] == 0
    with pytest.raises(ValueError, match="1 rubrics for 2 problems"):
        rubrics.mean_quality([GOOD], [problem, problem])
