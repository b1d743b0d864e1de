"""What documents say about tests: that they are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:faults/)?\w+_test)::(test_\w+)`")
DOCUMENTS = [path for path in sorted(ROOT.glob("docs/*.md")) if NAMED.search(path.read_text())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_is_there(document):
    named = set(NAMED.findall(document.read_text()))
    absent = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if f"def {name}(" not in (ROOT / "tests" / f"{file}.py").read_text()
    ]
    assert not absent


def test_the_table_of_faults_has_a_test_or_a_reason_in_every_line():
    lines = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert [line.split(" | ")[0] for line in lines] == [f"| {number}" for number in range(1, 47)]
    assert all(NAMED.search(line) for line in lines)
