"""A workdir and its models may lie in a bucket: here gs:// is the memory of the test."""

import fsspec
import jax
import numpy as np
import pytest
import tiny_tokenizers
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from tiny_pipeline import experiment

from rcsd_jax import lm, metrics, preflight, rubrics
from rcsd_jax.workdir import Workdir


class Bucket(MemoryFileSystem):
    protocol = ("gs", "gcs")
    cachable = False
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))


@pytest.fixture
def bucket(monkeypatch):
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    fsspec.register_implementation("gs", Bucket, clobber=True)
    monkeypatch.setattr(preflight, "_BEAT_SECONDS", 0.05)
    yield epath.Path("gs://bucket/runs/x")
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]


def test_a_run_in_a_bucket_is_held_written_and_finished(bucket):
    e = experiment()
    with Workdir(bucket, e).held():
        assert (bucket / "lock").exists()
        with pytest.raises(ValueError, match="in use by process"), Workdir(bucket, e).held():
            pass
        with metrics.MetricsWriter(bucket, tensorboard=False) as writer:
            writer.write(1, {"loss": 0.5})
        cache = rubrics.RubricCache(bucket / "rubrics.jsonl")
        cache.append(rubrics.RubricKey("q", "g", "p", "s"), rubrics.Entry(None, "empty"))
        Workdir(bucket, e).finish({"steps": 1})
    assert not (bucket / "lock").exists()
    assert Workdir(bucket, e).done() == {"steps": 1}
    assert metrics.read_metrics(bucket / "metrics.jsonl")[0]["loss"] == 0.5
    assert len(rubrics.RubricCache(bucket / "rubrics.jsonl")) == 1
    with pytest.raises(ValueError, match="config.seed was 0, is 1"):
        Workdir(bucket, experiment(seed=1))


def test_a_model_is_exported_to_a_bucket_and_loaded_from_it(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokenizer = lm.ChatTokenizer.from_tokenizer(
        tiny_tokenizers.word_level(), tiny_tokenizers.CHATML, eos="<|im_end|>", pad="<pad>"
    )
    architecture = lm.Architecture(
        family="qwen3", vocab_size=-(-tokenizer.vocab_limit // 8) * 8, width=16, layers=1, heads=2, kv_heads=1,
        head_width=8, mlp_width=16, qk_norm=True,
    )  # fmt: skip
    transformer = lm.Transformer(architecture, lm.Compute())
    variables = lm.init(transformer, jax.random.key(0))
    lm.export(bucket / "model", transformer, variables, tokenizer)
    with pytest.raises(ValueError, match="gs://bucket/runs/x/model exists"):
        lm.export(bucket / "model", transformer, variables, tokenizer)
    assert not list(tmp_path.iterdir()), "nothing is left of the upload"
    for _ in range(2):  # the second time they are on this disk
        loaded = lm.load("gs://bucket/runs/x/model", lm.Compute())[1]
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    with pytest.raises(ValueError, match="gs://bucket/none is not there"):
        lm.load("gs://bucket/none", lm.Compute())


def test_nothing_of_a_bucket_is_remembered_for_others_change_it(bucket):
    bucket.mkdir(parents=True)
    assert fsspec.filesystem("gcs", finalize_on_close=True).dircache.use_listings_cache is False


def test_a_folder_with_results_and_no_config_is_nobodys_run(bucket):
    (bucket / "metrics.jsonl").write_text("somebody else's\n")
    with pytest.raises(ValueError, match="has metrics.jsonl and no config.json, so no run of ours"):
        Workdir(bucket, experiment())
    assert (bucket / "metrics.jsonl").read_text() == "somebody else's\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("Please install gcsfs"), r"needs the client of its bucket \(Please install gcsfs\): pip install"),
        (RuntimeError("401"), r"cannot be reached \(RuntimeError: 401\): check the name.*objectAdmin"),
    ],
)
def test_a_bucket_out_of_reach_is_refused_with_the_cure(bucket, monkeypatch, error, says):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Bucket, "ls", refuse)
    monkeypatch.setattr(Bucket, "glob", refuse)
    with pytest.raises(ValueError, match=says):
        Workdir(bucket, experiment())
