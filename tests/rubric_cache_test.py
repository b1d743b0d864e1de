"""A rubric that was paid for is never lost, halved or generated twice."""

import json
import multiprocessing
import os

import pytest
from etils import epath

from rcsd_jax.rubrics import Entry, RubricCache, RubricKey
from rcsd_jax.rubrics import cache as cache_module
from rcsd_jax.types import Criterion, Rubric


def key(i=0, **changes):
    return RubricKey(**{"question": f"Q{i}?", "generator": "m@0", "prompt": f"p{i}", "sampling": "T=0.7"} | changes)


def entry(i=0):
    return Entry(Rubric((Criterion("Ω title", f"criterion {i}\n\ud83d", 7.0), Criterion("t", "d", -0.5)), "learned"))


DROPPED = Entry(None, "truncated", attempts=2, text='[{"title": "cut')


def filled(path, n=3):
    cache = RubricCache(path)
    for i in range(n):
        cache.append(key(i), entry(i))
    return cache


def test_what_was_appended_is_there_in_the_next_process_dropped_entries_too(tmp_path):
    cache = filled(tmp_path / "new folder" / "cache.jsonl")
    cache.append(key(9), DROPPED)
    again = RubricCache(tmp_path / "new folder" / "cache.jsonl")
    assert [again.get(key(i)) for i in (0, 1, 2, 9, 10)] == [entry(0), entry(1), entry(2), DROPPED, None]
    assert len(again) == 4 and key(9) in again and key(10) not in again
    assert again.entries() == cache.entries() == [entry(0), entry(1), entry(2), DROPPED]


@pytest.mark.parametrize("field", ["question", "generator", "prompt", "sampling"])
def test_each_part_of_the_key_counts(tmp_path, field):
    cache = filled(tmp_path / "c.jsonl", 1)
    assert key() in cache and key(**{field: "other"}) not in cache


def test_parts_of_a_key_do_not_run_into_each_other():
    assert RubricKey("a", "b", "c", "d").digest != RubricKey("ab", "", "c", "d").digest


def test_the_digest_of_a_key_never_changes_between_versions():
    assert RubricKey("Q", "G", "P", "S").digest == (
        "ebe6f3a1a7070b64a8c4e5f9c69edf2fd588456d61f3ff5a5989dda1ab26d037"  # printf '["Q", "G", "P", "S"]' | sha256sum
    )


def test_reading_writes_nothing_and_a_missing_file_is_an_empty_cache(tmp_path):
    assert len(RubricCache(tmp_path / "missing.jsonl")) == 0
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "c.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes() + b'{"key": "half')
    before = path.read_bytes()
    assert len(RubricCache(path)) == 3 and path.read_bytes() == before


def test_a_cache_cut_at_any_byte_keeps_every_whole_record_and_goes_on(tmp_path):
    path = tmp_path / "c.jsonl"
    filled(path)
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 61), len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:cut])
        cache = RubricCache(path)
        assert len(cache) == whole[:cut].count(b"\n")
        for i in range(3):
            cache.append(key(i), entry(i))
        assert path.read_bytes() == whole


def test_the_first_of_two_entries_of_one_key_wins(tmp_path):
    path = tmp_path / "c.jsonl"
    one, two = RubricCache(path), RubricCache(path)
    one.append(key(), entry(1))
    two.append(key(), entry(2))
    assert two.get(key()) == entry(1)
    path.write_bytes(path.read_bytes() + cache_module._to_line(key(), entry(3)) + b"\n")
    assert RubricCache(path).get(key()) == entry(1)
    two.extend([(key(5), entry(5)), (key(5), entry(6))])
    assert RubricCache(path).get(key(5)) == two.get(key(5)) == entry(5)


@pytest.mark.parametrize(
    "line", [b"not json", b"[]", b'{"question": "Q?"}', b"\xff\xfe", b"", b'{"a": 1}\rmore', b'{"key": 1, "rubric": 5}']
)
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_cut_off(tmp_path, line):
    path = tmp_path / "c.jsonl"
    filled(path, 1)
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"c\.jsonl:2: no record"):
        RubricCache(path)
    assert path.read_bytes() == before


def test_the_content_hash_tells_content_and_not_the_way_it_came_about(tmp_path):
    a, b = filled(tmp_path / "a.jsonl"), RubricCache(tmp_path / "b.jsonl")
    b.extend((key(i), entry(i)) for i in (2, 0, 1))
    assert a.content_hash() == b.content_hash()
    b.append(key(3), DROPPED)
    assert a.content_hash() != b.content_hash()
    first_three = [key(i) for i in range(3)]
    assert a.content_hash(first_three) == b.content_hash(first_three) != a.content_hash(first_three[:2])
    changed = RubricCache(tmp_path / "c.jsonl")
    changed.extend((key(i), entry(i + 1)) for i in range(3))
    assert a.content_hash() != changed.content_hash()


def test_rubrics_by_question_leave_out_the_dropped_and_refuse_to_choose(tmp_path):
    cache = filled(tmp_path / "c.jsonl", 2)
    cache.append(key(2), DROPPED)
    assert cache.by_question() == {"Q0?": entry(0).rubric, "Q1?": entry(1).rubric}
    assert RubricCache(tmp_path / "c.jsonl").by_question() == cache.by_question()
    cache.append(key(2, sampling="T=1"), entry(2))
    assert cache.by_question()["Q2?"] == entry(2).rubric
    cache.append(key(0, generator="m@100"), entry(5))
    with pytest.raises(ValueError, match=r"c\.jsonl has several rubrics for 'Q0\?'"):
        cache.by_question()


def _write_many(path, name, n):
    cache = RubricCache(path)
    for i in range(n):
        cache.append(key(i, generator=name), entry(i))
        cache.append(key(i, generator="both"), entry(i))


def test_processes_that_append_at_once_do_not_interleave(tmp_path):
    path, n = tmp_path / "c.jsonl", 60
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(path, name, n)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert len(RubricCache(path)) == 3 * n
    assert len(path.read_text().splitlines()) == 3 * n


def test_a_full_disk_leaves_the_file_as_it_was_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    cache = filled(path, 1)
    before, real_write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:10]))
    with pytest.raises(OSError, match="10 of"):
        cache.append(key(1), entry(1))
    monkeypatch.undo()
    assert path.read_bytes() == before and key(1) not in cache
    cache.append(key(1), entry(1))
    assert len(RubricCache(path)) == 2


def test_a_file_that_shrank_while_open_is_noticed_instead_of_padded(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = filled(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="shrank"):
        cache.append(key(7), entry(7))
    assert path.stat().st_size == 100


def test_a_bucket_is_rewritten_whole_with_the_same_result(tmp_path):
    local = filled(tmp_path / "local.jsonl")
    bucket = RubricCache(epath.Path(tmp_path / "bucket.jsonl"))
    bucket._journal._is_local = False  # what "://" in the path says
    for i in range(3):
        bucket.append(key(i), entry(i))
    assert (tmp_path / "bucket.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert bucket.content_hash() == local.content_hash()


def test_every_line_can_be_read_by_people_and_jq(tmp_path):
    filled(tmp_path / "c.jsonl", 1).append(key(1), DROPPED)
    good, dropped = map(json.loads, (tmp_path / "c.jsonl").read_text(encoding="ascii").splitlines())
    assert good["question"] == "Q0?" and good["rubric"][0]["weight"] == 7 and good["reason"] == ""
    assert dropped["rubric"] is None and dropped["reason"] == "truncated" and dropped["attempts"] == 2


@pytest.mark.parametrize("wrong", [{"rubric": None}, {"rubric": Rubric(()), "reason": "truncated"}])
def test_an_entry_has_a_rubric_or_a_reason(wrong):
    with pytest.raises(ValueError):
        Entry(**wrong)
