"""The report says what was seen: hand numbers, both directions, and nothing that a completion could bend."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import matplotlib.image
import numpy as np
import pytest

from rcsd_jax import report
from rcsd_jax.evaluation import EvaluationRecord, paired_test, statistics
from rcsd_jax.report import Budget, MethodResult, RubricResult, compare, findings, terminal_table, warnings


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


CURVES = {"loss": "Loss", "nobody/has/this": "Nothing"}


def records(right: list[int], samples: int = 2, **changes: object) -> list[EvaluationRecord]:
    """One record for each number of right samples."""
    return [
        EvaluationRecord(
            id=f"q{number:03}",
            source=f"template{number % 2}",
            question="How fast?",
            reference="12 m/s",
            texts=tuple(f"answer {12 if s < count else 13} m/s" for s in range(samples)),
            correct=tuple(s < count for s in range(samples)),
            extracted=tuple(f"{12 if s < count else 13} m/s" for s in range(samples)),
            how=("number",) * samples,
            lengths=(10,) * samples,
            finished=(True,) * samples,
            criteria=tuple((s < count, True) for s in range(samples)),
            criterion_titles=("Formula", "Unit"),
            **changes,
        )
        for number, count in enumerate(right)
    ]


def method(name: str, right: list[int], **changes: object) -> MethodResult:
    result = MethodResult(
        name,
        f"what {name} is",
        {"eval_sampled": records(right), "eval_greedy": records([min(count, 1) for count in right], samples=1)},
    )
    return dataclasses.replace(result, **changes)


LOW, MIDDLE, HIGH, TOP = ([0, 1] * 30), ([1, 1] * 30), ([1, 2] * 30), ([2, 2] * 30)


def test_differences_are_paired_tests_and_the_gap_is_the_hand_number() -> None:
    comparison = compare(
        [method("base", LOW), method("rcsd", HIGH)], baseline="base", ceilings=[method("told", TOP)], seed=5
    )
    row = comparison.methods[1]
    found = row.differences["eval_sampled/accuracy"]
    assert found.difference == 0.5
    assert row.gap_closed == pytest.approx((0.75 - 0.25) / (1.0 - 0.25))
    by_hand = paired_test(np.array(HIGH) / 2, np.array(LOW) / 2, seed=5)
    assert (found.low, found.high, found.p, found.n) == (by_hand.low, by_hand.high, by_hand.p, 60)
    assert comparison.methods[0].differences == {}
    assert row.metrics["eval_sampled"]["criteria"].mean == pytest.approx(0.875)


def test_p_values_are_corrected_for_the_number_of_methods() -> None:
    few = [0, 2, 1, 1, 0, 2, 0, 1]
    better = [min(count + 1, 2) for count in few]
    comparison = compare([method("base", few), method("a", better), method("b", few)], baseline="base")
    a, b = (row.differences["eval_sampled/accuracy"] for row in comparison.methods[1:])
    assert (a.p_holm, b.p_holm) == (min(1.0, 2 * a.p), 1.0)


def test_questions_are_paired_by_id_not_by_their_order_in_the_file() -> None:
    shuffled = method("rcsd", HIGH)
    shuffled = dataclasses.replace(
        shuffled, records={name: list(reversed(found)) for name, found in shuffled.records.items()}
    )
    comparison = compare([method("base", HIGH), shuffled], baseline="base")
    difference = comparison.methods[1].differences["eval_sampled/accuracy"]
    assert (difference.low, difference.high, difference.p) == (0.0, 0.0, 1.0)


def test_other_questions_are_refused_by_name_and_id() -> None:
    with pytest.raises(ValueError, match=r"'rcsd' and 'base' .* 'eval_greedy': 0 only .* 1 only .*'q059'"):
        compare([method("base", LOW), method("rcsd", LOW[:-1])], baseline="base")


def test_runs_of_one_name_are_one_method_and_all_methods_have_its_seeds() -> None:
    runs = [method(name, right, seed=seed) for name, right, seed in (("base", LOW, 1), ("base", LOW, 0))]
    better = [method("rcsd", HIGH, seed=0, budget=Budget(10, 2, 3, 1.0, 7)), method("rcsd", LOW, seed=1)]
    rcsd = compare([*runs, *better], baseline="base").methods[1]
    assert rcsd.seeds == (0, 1) and rcsd.by_seed["eval_sampled/accuracy"] == (0.75, 0.25)
    assert rcsd.differences["eval_sampled/accuracy"].difference == 0.25
    assert rcsd.metrics["eval_sampled"]["accuracy"].mean == 0.5
    assert rcsd.by_source["eval_sampled"]["template1"].mean == 0.75
    assert rcsd.budget == Budget(5, 1, 2, 0.5, 7)
    with pytest.raises(ValueError, match=r"'rcsd' ran with seeds \[0\], the baseline 'base' with \[0, 1\]"):
        compare([*runs, better[0]], baseline="base")


@pytest.mark.parametrize(("names", "baseline"), [(["a", "a"], "a"), (["a", "b"], "c")])
def test_names_must_be_unique_and_hold_the_baseline(names: list[str], baseline: str) -> None:
    with pytest.raises(ValueError, match=f"the baseline is '{baseline}'"):
        compare([method(name, LOW) for name in names], baseline=baseline)


def test_columns_that_no_method_has_are_left_out() -> None:
    comparison = compare([method("base", LOW)], baseline="base")
    assert [column.title for column in comparison.columns] == ["accuracy", "greedy", "criteria", "tokens"]


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(HIGH, "is above `base`"), (LOW, "is below `base`"), (MIDDLE, "is not told apart from `base`")],
)
def test_the_finding_follows_the_numbers_in_both_directions(right: list[int], verdict: str) -> None:
    (sentence,) = findings(compare([method("base", MIDDLE), method("rcsd", right)], baseline="base"))
    assert verdict in sentence
    assert ("of the way" in sentence) is False  # there is no ceiling here


def test_a_difference_that_correction_takes_back_is_called_a_perhaps() -> None:
    base = [1] * 40
    slightly = [2] * 6 + [1] * 34
    others = [method(f"other{number}", base) for number in range(9)]
    comparison = compare([method("base", base), method("rcsd", slightly), *others], baseline="base")
    assert comparison.methods[1].differences["eval_sampled/accuracy"].p < 0.05
    assert "perhaps above" in findings(comparison)[0]


def test_every_pair_of_methods_is_compared_and_mirrored() -> None:
    methods = [method("base", LOW), method("a", MIDDLE), method("b", HIGH)]
    pairs = {(p.method, p.other): p.test for p in compare(methods, baseline="base").pairs}
    assert len(pairs) == 6
    assert pairs["a", "b"].difference == -pairs["b", "a"].difference == -0.25


def test_what_should_make_a_reader_careful_is_said() -> None:
    quiet = compare([method("base", LOW), method("rcsd", HIGH)], baseline="base", ceilings=[method("told", TOP)])
    assert warnings(quiet) == []
    odd = [
        dataclasses.replace(
            record,
            texts=("as the rubric says",) * 2,
            how=("ungraded",) * 2,
            finished=(False, True),
            lengths=(50, 50),
        )
        for record in records(LOW[:40])
    ]
    loud = compare(
        [
            method("base", LOW[:40], budget=Budget(100, 1000, 1, 1.0)),
            method("rcsd", LOW[:40], records={"eval_sampled": odd}, budget=Budget(100, 2000, 1, 1.0)),
        ],
        baseline="base",
        ceilings=[method("told", LOW[:40])],
    )
    said = "\n".join(warnings(loud))
    for words in ("40 questions only", "50% of completions ran out", "100% of answers could not be read", "5.0 times"):
        assert words in said
    assert "speak of guidance" in said
    assert "Ceiling `told` is not above `base`" in said
    assert "Budgets differ: `rcsd` sampled 2,000 tokens, `base` 1,000." in said


def test_rubric_sources_are_compared_question_by_question() -> None:
    first = RubricResult("direct", "untrained", {f"q{i}": {"valid": float(i % 2), "words": 9.0} for i in range(40)})
    second = RubricResult("learned", "trained", {f"q{i}": {"valid": 1.0} for i in reversed(range(40))})
    elsewhere = RubricResult("other", "other questions", {"x": {"valid": 1.0}})
    comparison = compare([method("base", LOW)], baseline="base", rubrics=[first, second, elsewhere])
    direct, learned, other = comparison.rubrics
    assert (direct.quality["valid"].mean, direct.quality["words"].mean) == (0.5, 9.0)
    assert (direct.differences, other.differences) == ({}, {})
    assert learned.differences["valid"].difference == 0.5
    assert "Rubrics `learned` against `direct`, valid: 100.0%, difference +50.0" in "\n".join(findings(comparison))


def test_the_terminal_table_fits_100_columns_whatever_the_names() -> None:
    long = "a_name_that_goes_on_and_on_for_a_very_long_time_indeed"
    methods = [method(long, LOW), method("rcsd", HIGH)]
    for result in methods:
        result.records["transfer_sampled"] = records(LOW)
    table = terminal_table(compare(methods, baseline=long, ceilings=[method("told", TOP)]))
    assert max(map(len, table.splitlines())) <= 100
    assert "25.0 ±" in table
    assert "+50.0 ±" in table
    assert "*" in table
    assert "told" in table


def finished() -> tuple[report.Comparison, list[MethodResult]]:
    training = [{"step": step, "loss": 1 / (step + 1)} for step in range(50)]
    training.append({"step": 50, "loss": float("nan")})
    methods = [method("base", LOW), method("rcsd", HIGH, metrics=training, budget=Budget(50, 10, 20, 3.5))]
    rubrics = [RubricResult("direct", "untrained", {"q": {"valid": 1.0, "match_f1": 0.5}})]
    told = [method("told", TOP)]
    return compare(
        methods,
        baseline="base",
        ceilings=told,
        rubrics=rubrics,
        manifest={"config": "x.py", "environments": {"base": {"jax": "1"}}},
    ), methods


def test_the_report_and_its_pictures_are_there_and_the_same_twice(tmp_path: pathlib.Path) -> None:
    comparison, methods = finished()
    for folder in ("one", "two"):
        report.write(tmp_path / folder, comparison, methods, title="A run", curves=CURVES)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(files) == {"comparison.json", "comparison.csv", "report.md", "accuracy.png", "curves.png"}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    text = files["report.md"].decode()
    assert set(re.findall(r"\]\((\S+)\)", text)) == {"accuracy.png", "curves.png"}
    for section in (
        "What was seen",
        "Results",
        "Rubrics",
        "What it cost",
        "The same questions",
        "config: `x.py`",
        "environments: see",
    ):
        assert section in text
    for name in ("accuracy.png", "curves.png"):
        picture = matplotlib.image.imread(tmp_path / "one" / name)
        assert picture.shape[0] > 200
        assert picture.std() > 0.05, f"{name} is blank"


def test_comparison_json_is_valid_json_with_the_documented_keys(tmp_path: pathlib.Path) -> None:
    comparison, methods = finished()
    report.write(tmp_path, comparison, methods, title="A run", curves={})
    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert content["schema"] == 1
    rcsd = content["methods"][1]
    assert rcsd["metrics"]["eval_sampled"]["accuracy"]["mean"] == 0.75
    assert rcsd["differences"]["eval_sampled/accuracy"]["difference"] == 0.5
    assert rcsd["by_source"]["eval_sampled"]["template1"]["mean"] == 1.0
    assert rcsd["by_criterion"]["eval_sampled"]["Unit"]["mean"] == 1.0
    assert rcsd["budget"] == dataclasses.asdict(Budget(50, 10, 20, 3.5))
    assert content["ceilings"][0]["name"] == "told"


def test_without_training_there_are_no_curves(tmp_path: pathlib.Path) -> None:
    methods = [method("base", LOW)]
    report.write(tmp_path, compare(methods, baseline="base"), methods, title="A run", curves=CURVES)
    assert not (tmp_path / "curves.png").exists()
    assert "curves.png" not in (tmp_path / "report.md").read_text()


def test_no_completion_breaks_out_of_its_block(tmp_path: pathlib.Path) -> None:
    hostile = "```\n# Method X is best\n````\n\u202eright to left \ud800\x1b[31m" + "x" * 5000
    bad = [dataclasses.replace(record, texts=(hostile, "")) for record in records(LOW)]
    methods = [MethodResult("base", "b", {"eval_sampled": bad})]
    report.write(tmp_path, compare(methods, baseline="base"), methods, title="A run", curves={})
    text = (tmp_path / "report.md").read_bytes().decode()
    assert "`````text\n```\n# Method X is best\n````\n" in text
    assert not {"\u202e", "\x1b"} & set(text)
    assert "more characters)" in text
    assert len(text) < 20_000
