"""A bad line is named by file, line and field; what is written reads back equal; splits share no question."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcsd_jax import data
from rcsd_jax.types import Criterion, Problem, Rubric

GOOD = {"id": "q1", "question": "What is 3 N times 4 m?", "answer": "12 J"}


def written(tmp_path, *rows, name="questions.jsonl"):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def complaint(path, **kwargs):
    with pytest.raises(ValueError) as error:
        data.read_jsonl(path, **kwargs)
    return str(error.value)


def test_a_whole_problem_is_read(tmp_path):
    row = {
        "id": 7, "question": "Which is a vector?", "answer": "B", "choices": ["mass", "velocity"],
        "solution": "Velocity has a direction.", "source": "book", "difficulty": "easy",
        "rubric": [{"title": "Direction", "description": "Names the direction.", "weight": 7}],
    }  # fmt: skip
    rubric = Rubric((Criterion("Direction", "Names the direction.", 7.0),), "ground_truth")
    assert data.read_jsonl(written(tmp_path, row)) == [
        Problem("7", "Which is a vector?", "B", "Velocity has a direction.", ("mass", "velocity"), rubric, "book")
    ]


@pytest.mark.parametrize(("value", "text"), [(12, "12"), (-0.5, "-0.5"), ("12 J", "12 J"), ("", "")])
def test_numbers_become_text_and_an_empty_answer_means_unknown(tmp_path, value, text):
    assert data.read_jsonl(written(tmp_path, {**GOOD, "answer": value}))[0].answer == text


def test_bom_crlf_blank_lines_and_line_separators_inside_strings_are_fine(tmp_path):
    path = tmp_path / "questions.jsonl"
    second = json.dumps({"id": "q2", "question": "a\u2028b\x85c", "answer": "1"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + second.encode() + b"\r\n")
    assert [problem.question for problem in data.read_jsonl(path)] == [GOOD["question"], "a\u2028b\x85c"]


def test_a_line_of_a_million_characters_is_read(tmp_path):
    long = "x" * 1_000_000
    assert data.read_jsonl(written(tmp_path, {**GOOD, "question": long}))[0].question == long


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "q2", "question": }', "questions.jsonl:2:26: not JSON"),
        ('["q2", "question", "12"]', "questions.jsonl:2: a row is an object {...}"),
        ("12", "a row is an object"),
        ('{"id": "q2", "question": "q", "answer": NaN}', "NaN is no JSON number"),
        ('{"id": "q2", "question": "q", "answer": 1e999}', "field 'answer' is inf"),
        ('{"id": "q2", "question": "q", "answer": ' + "9" * 5000 + "}", "questions.jsonl:2: not JSON"),
        ("[" * 100_000, "questions.jsonl:2"),
        ('{"id": "q2", "question": "q"}', "questions.jsonl:2: field 'answer' is missing (the row has id, question; the fields are id, question, answer,"),  # noqa: E501
        ('{"id": "q2", "question": "q", "anwser": "1"}', "field 'anwser' is unknown; did you mean 'answer'?"),
        ('{"id": "q2", "Question": "q", "answer": "1"}', "field 'Question' is unknown; did you mean 'question'?"),
        ('{"id": "q2", "prompt": "q", "answer": "1"}', "field 'question' is missing (the row has answer, id, prompt"),
        ('{"id": "q2", "question": "q", "answer": "1", "soluton": "s"}', "did you mean 'solution'?"),
        ('{"id": "q2", "question": "q", "answer": null}', "field 'answer' is null: give a text, or '' where the answer is not known"),  # noqa: E501
        ('{"id": "q2", "question": null, "answer": "1"}', "field 'question' is null: give a text"),
        ('{"id": "q2", "question": "  ", "answer": "1"}', "field 'question' is empty"),
        ('{"id": "q2", "question": "q", "answer": ["1", "2"]}', "field 'answer' is a list: give one text, or one row for each"),  # noqa: E501
        ('{"id": "q2", "question": "q", "answer": {"v": 1}}', "field 'answer' is an object"),
        ('{"id": "q2", "question": "q", "answer": true}', "field 'answer' is true: write it as text"),
        ('{"id": "q2", "question": "half \\ud83d", "answer": "1"}', "half of a surrogate pair at character 6"),
        ('{"id": "q2", "question": "q", "answer": "C", "choices": ["a", "b"]}', "give the letter of a choice"),
        ('{"id": "q2", "question": "q", "answer": 1, "choices": ["a", "b"]}', "give the letter of a choice"),
        ('{"id": "q2", "question": "q", "answer": "A", "choices": "ab"}', "field 'choices' is 'ab': give a list"),
        ('{"id": "q2", "question": "q", "answer": "A", "choices": ["a"]}', "give a list of 2 to 26"),
        ('{"id": "q2", "question": "q", "answer": "A", "choices": ["a", null]}', "field 'choices[1]' is null"),
        ('{"id": "q2", "question": "q", "answer": "1", "rubric": []}', "field 'rubric' is '[]': give a list"),
        ('{"id": "q2", "question": "q", "answer": "1", "rubric": ["x"]}', "rubric[0] is 'x': a criterion is an object"),
        ('{"id": "q2", "question": "q", "answer": "1", "rubric": [{"title": "t", "weight": 1}]}', "rubric[0]: field 'description' is missing (it has title, weight)"),  # noqa: E501
        ('{"id": "q2", "question": "q", "answer": "1", "rubric": [{"title": "t", "description": "", "weight": 1}]}', "'rubric[0].description' is empty"),  # noqa: E501
        ('{"id": "q2", "question": "q", "answer": "1", "rubric": [{"title": "t", "description": "d", "weight": "7"}]}', "rubric[0].weight is '7': give a finite number"),  # noqa: E501
        ('{"id": "q1", "question": "another", "answer": "1"}', "id 'q1' is the id of another question in line 1"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_file_line_and_field(tmp_path, line, says):
    message = complaint(written(tmp_path, GOOD, line))
    assert "questions.jsonl has 1 bad row:" in message
    assert says in message
    assert ":1:" not in message


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"id": "q", "question": "\xff", "answer": "1"}\n', "questions.jsonl:1:26: byte 0xff is not UTF-8"),
        (b'{"id": "q", "question": "\0", "answer": "1"}\n', "questions.jsonl:1:26: NUL bytes: the file is damaged"),
        (b"\xff\xfe{\0", "the file is UTF-16"),
        (json.dumps(GOOD).encode() + b'\n{"id": "q2", "ques', "questions.jsonl:2:14: not JSON, Unterminated string starting at (the file ends here without a line break: was it cut off?)"),  # noqa: E501
        (b"", "holds no rows"),
        (b"\n \r\n", "holds no rows"),
    ],
)  # fmt: skip
def test_damaged_bytes_are_named(tmp_path, raw, says):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(raw)
    assert says in complaint(path)


def test_all_bad_lines_come_in_one_message_and_at_most_twenty(tmp_path):
    rows = [GOOD, *({"id": f"b{i}", "answer": "1"} for i in range(3))]
    message = complaint(written(tmp_path, *rows))
    assert "has 3 bad rows" in message
    assert all(f"questions.jsonl:{line}:" in message for line in (2, 3, 4))
    message = complaint(written(tmp_path, *({"id": f"b{i}", "answer": "1"} for i in range(1000))))
    assert "more than 20 bad rows" in message
    assert message.count("is missing") == 20


def test_bad_rows_are_left_out_only_when_asked_and_only_so_many(tmp_path, caplog):
    path = written(tmp_path, GOOD, "{", {**GOOD, "id": "q3"}, "[]")
    with caplog.at_level("WARNING"):
        assert [problem.id for problem in data.read_jsonl(path, max_bad_rows=2)] == ["q1", "q3"]
    assert "left out 2 bad rows of 4" in caplog.text
    assert "has 2 bad rows" in complaint(path, max_bad_rows=1)


def test_an_id_that_comes_again_with_its_question_is_a_warning(tmp_path, caplog):
    path = written(tmp_path, GOOD, {**GOOD, "solution": "another way"})
    with caplog.at_level("WARNING"):
        assert len(data.read_jsonl(path)) == 2
    assert "1 rows repeat an id with its question, first in line 2" in caplog.text


def test_a_file_that_is_not_there_or_of_no_known_kind_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl does not exist"):
        data.read_jsonl(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="no reader for .txt"):
        data.read_jsonl(written(tmp_path, GOOD, name="questions.txt"))


texts = st.text(max_size=20)
filled = texts.filter(lambda text: text.strip())
criteria = st.builds(Criterion, filled, filled, st.floats(-1e6, 1e6))
rubrics = st.builds(Rubric, st.lists(criteria, min_size=1, max_size=3).map(tuple), filled)
problems = st.builds(
    Problem,
    id=filled,
    question=filled,
    answer=texts,
    solution=st.none() | texts,
    rubric=st.none() | rubrics,
    source=texts,
) | st.builds(
    Problem,
    id=filled,
    question=filled,
    answer=st.just("B"),
    choices=st.lists(filled, min_size=2, max_size=5).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(problems, min_size=1, max_size=4, unique_by=lambda problem: problem.id))
def test_what_is_written_reads_back_equal(tmp_path_factory, written_problems):
    path = tmp_path_factory.mktemp("round") / "trip.jsonl"
    data.write_jsonl(path, written_problems)
    assert data.read_jsonl(path) == written_problems
    assert [path.name for path in path.parent.iterdir()] == ["trip.jsonl"]


def test_a_problem_that_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="problem 'q' cannot be written: field 'question' is empty"):
        data.write_jsonl(tmp_path / "x.jsonl", [Problem("q", " ", "1")])
    assert list(tmp_path.iterdir()) == []


def a_problem(question, choices=(), id="x"):
    return Problem(id, question, "A" if choices else "1", choices=tuple(choices))


def test_the_same_question_in_other_dress_has_the_same_hash():
    one = data.question_hash(a_problem("What is  Ohm's law?\n", ["U = R I", "F = m a"]))
    assert one == data.question_hash(a_problem("What is Ohm's law", ["F = m a", "U = R I"]))
    assert one != data.question_hash(a_problem("What is Ohm's law?", ["U = R I", "F = m / a"]))
    assert data.question_hash(a_problem("Aa x Aa gives?")) != data.question_hash(a_problem("Aa x aa gives?"))
    assert data.question_hash(a_problem("What is x+1?")) != data.question_hash(a_problem("What is x-1?"))
    assert data.question_hash(a_problem("10\u00b2")) != data.question_hash(a_problem("102"))


def test_splits_are_disjoint_complete_near_their_shares_and_blind_to_the_rest_of_the_file():
    many = [a_problem(f"What is {i} + {i}?") for i in range(4000)]
    splits = data.divide(many, {"eval": 0.1, "rubric": 0.25}, rest="train")
    hashes = [{data.question_hash(problem) for problem in split} for split in splits.values()]
    assert len(set.union(*hashes)) == sum(map(len, hashes))
    assert sum(map(len, splits.values())) == len(many)
    assert abs(len(splits["eval"]) / 4000 - 0.1) < 0.02
    assert abs(len(splits["rubric"]) / 4000 - 0.25) < 0.03
    half = data.divide(many[::-2], {"eval": 0.1, "rubric": 0.25}, rest="train")
    assert set(half["eval"]) <= set(splits["eval"])
    two_versions = [a_problem("Which one?", ["a", "b"]), a_problem("Which one?", ["c", "d"])]
    assert sorted(map(len, data.divide(two_versions, {"eval": 0.5}, rest="train").values())) == [0, 2]


@pytest.mark.parametrize("shares", [{"eval": -0.1}, {"eval": 0.6, "rubric": 0.6}])
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(ValueError, match="sum to at most 1"):
        data.divide([a_problem("q")], shares, rest="train")


def test_repeats_keep_the_first():
    first, again = a_problem("One?", id="1"), a_problem(" One", id="2")
    assert data.drop_repeats([first, again]) == ([first], 1)


def test_the_content_hash_sees_every_field():
    one = a_problem("One?")
    assert data.content_hash([one]) == data.content_hash([one])
    assert data.content_hash([one]) != data.content_hash([one, one])
    assert data.content_hash([one]) != data.content_hash([Problem("x", "One?", "1", solution="s")])
