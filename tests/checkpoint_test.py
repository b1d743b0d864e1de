"""What is restored is what was saved, to the bit, whatever happened to the files and wherever it is restored."""

import contextlib
import dataclasses
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rcsd_jax import checkpoint, ending, sharding
from rcsd_jax.checkpoint import Checkpoints, Meta, Mismatch, compare_meta
from rcsd_jax.fingerprints import describe
from rcsd_jax.types import TrainState

# Orbax leaves its other reads unfinished when one fails; Python remarks on that when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_unfinished_reads():
    yield
    gc.collect()


META = Meta(config_hash="c", rubrics_hash="r", data_hash="d", metrics_bytes=100)


def layout(mesh, x):
    """Matrices over both axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec("fsdp", "tensor") if x.ndim == 2 else PartitionSpec())


def a_state(seed=0, mesh=None, teacher=False):
    mesh = mesh or sharding.make_mesh(sharding.MeshConfig(1, 8, 1))
    keys = jax.random.split(jax.random.key(seed), 3)
    lora = {"a": jax.random.normal(keys[0], (256, 64)), "b": jax.random.normal(keys[1], (8,))}
    params = {"kernel": jax.random.normal(keys[2], (16, 24)).astype(jnp.bfloat16)}
    state = TrainState(
        step=jnp.int32(seed),
        variables={"params": params, "lora": lora},
        opt_state=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(lora),
        teacher=jax.tree.map(lambda x: x + 1, lora) if teacher else None,
        skipped=jnp.int32(2),
        skipped_in_a_row=jnp.int32(0),
        trainable="lora",
    )
    return jax.tree.map(lambda x: jax.device_put(x, layout(mesh, x)), state)


def abstract(state, mesh=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout(mesh, x) if mesh else x.sharding), state
    )


def assert_same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(folder, *steps, **kwargs):
    with Checkpoints(folder, keep=5) as checkpoints:
        for step in steps:
            checkpoints.save(step, a_state(step, **kwargs), META)
    return folder


def biggest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("teacher", [False, True])
def test_a_restored_state_is_bitwise_the_saved_one(tmp_path, teacher):
    saved(tmp_path, 3, teacher=teacher)
    state = a_state(3, teacher=teacher)
    with Checkpoints(tmp_path) as checkpoints:
        step, got, meta, ahead = checkpoints.restore(abstract(state), META)
    assert (step, meta, ahead) == (3, META, {})
    assert got.trainable == "lora"
    assert got.variables["params"]["kernel"].dtype == jnp.bfloat16
    assert_same(got, state)


def test_what_was_sampled_ahead_comes_back_and_is_verified(tmp_path):
    ahead = {"rollout": {"prompts": {"valid": np.array([[True, False]])}, "tokens": np.arange(6, dtype=np.int32)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, a_state(), META)
        checkpoints.save(2, a_state(), META, ahead=ahead)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(a_state()), META)
        assert restored.step == 2
        assert_same(restored.ahead, ahead)
        assert all(type(x) is np.ndarray for x in jax.tree.leaves(restored.ahead))
    for path in (tmp_path / "2" / "ahead").rglob("d/*"):
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META)[::3] == (1, {})


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = a_state(1)
    wanted = jax.tree.map(lambda x: np.array(x, copy=True), state)
    clear = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, META)
        jax.block_until_ready(clear(state))
        checkpoints.wait()
        assert_same(checkpoints.restore(abstract(a_state(1)), META).state, wanted)


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META) is None


def test_the_newest_is_restored_and_old_ones_are_deleted(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, a_state(step), META)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META).step == 3


def test_eight_by_one_restores_as_two_by_four_and_on_one_device(tmp_path):
    saved(tmp_path, 3)
    state = a_state(3)
    two_by_four = sharding.make_mesh(sharding.MeshConfig(1, 2, 4))
    one = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
    with Checkpoints(tmp_path) as checkpoints:
        for mesh in (two_by_four, one):
            got = checkpoints.restore(abstract(state, mesh), META).state
            assert_same(got, state)
            assert got.variables["lora"]["a"].sharding.mesh == mesh


def truncate(folder):
    path = biggest_file(folder / "2" / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(folder):
    path = biggest_file(folder / "2" / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete_a_file(folder):
    biggest_file(folder / "2" / "state").unlink()


def rename_in_the_record(folder):
    path = biggest_file(folder / "2" / "record")
    path.write_text(path.read_text().replace('"ahead"', '"aheae"'))


def spoil_the_record(folder):
    biggest_file(folder / "2" / "record").write_text('{"meta": ')


@pytest.mark.parametrize("damage", [truncate, flip_one_bit, delete_a_file, rename_in_the_record, spoil_the_record])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, damage):
    saved(tmp_path, 1, 2)
    damage(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(a_state()), META)
        assert restored.step == 1
        assert_same(restored.state, a_state(1))
        checkpoints.save(2, a_state(2), META)  # the way is free again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "bad_2"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META).step == 2


def test_a_stray_empty_folder_is_set_aside(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "9").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META).step == 1
        checkpoints.save(2, a_state(2), META)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "bad_9"]


def test_when_nothing_can_be_read_nothing_is_touched_and_no_run_begins_anew(tmp_path):
    saved(tmp_path, 2)
    truncate(tmp_path)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="(?s)no checkpoint.*step 2.*move them"):
        checkpoints.restore(abstract(a_state()), META)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_reader_restores_and_changes_nothing(tmp_path):
    saved(tmp_path, 1, 2)
    truncate(tmp_path)
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # another process is writing this one
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3.orbax-checkpoint-tmp"]
    with Checkpoints(tmp_path / "nothing", read_only=True) as checkpoints:
        assert checkpoints.restore(abstract(a_state()), META) is None
        with pytest.raises(ValueError, match="opened read_only"):
            checkpoints.save(1, a_state(), META)
    assert not (tmp_path / "nothing").exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, a_state(3), META)
    assert not (tmp_path / "3.orbax-checkpoint-tmp").exists()


def test_an_older_step_is_refused_while_a_later_one_is_there(tmp_path):
    saved(tmp_path, 5)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="holds step 5, this is step 2"):
        checkpoints.save(2, a_state(2), META)


def test_saving_a_step_twice_is_saving_it_once(tmp_path):
    saved(tmp_path, 5, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_a_run_of_another_config_is_refused_with_what_differs(tmp_path):
    saved(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Mismatch) as error:
        checkpoints.restore(abstract(a_state()), Meta(config_hash="other", rubrics_hash="r", data_hash="else"))
    message = str(error.value)
    assert "config_hash was 'c', is 'other'" in message
    assert "data_hash was 'd', is 'else'" in message
    assert "rubrics_hash" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_only_the_length_of_the_metrics_file_may_differ():
    assert compare_meta(META, dataclasses.replace(META, metrics_bytes=999)) == []
    assert len(compare_meta(META, Meta())) == 3
    assert "under the adapters" in compare_meta(META, dataclasses.replace(META, frozen_hash="other"))[0]


def test_another_model_is_refused_by_the_names_of_its_arrays(tmp_path):
    saved(tmp_path, 1)
    other = a_state()
    other.variables["lora"]["a"] = jnp.zeros((256, 4))
    other.variables["lora"]["c"] = jnp.zeros(3)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Mismatch) as error:
        checkpoints.restore(abstract(other), META)
    assert "array variables/lora/a was float32[256, 64], is float32[256, 4]" in str(error.value)
    assert "array variables/lora/c was absent, is float32[3]" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_fingerprints_do_not_depend_on_the_mesh_and_see_every_single_bit():
    state = a_state()
    prints = describe(state)
    other = a_state(mesh=sharding.make_mesh(sharding.MeshConfig(1, 2, 4)))
    assert describe(other) == prints
    kernel = np.asarray(state.variables["params"]["kernel"]).view(np.uint16)
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = kernel.copy()
        changed[rng.integers(16), rng.integers(24)] ^= np.uint16(1 << rng.integers(16))
        [(_, leaf)] = describe({"kernel": jnp.asarray(changed).view(jnp.bfloat16)}).items()
        assert leaf != prints["variables/params/kernel"]


def test_fingerprints_see_two_swapped_elements():
    x = jnp.arange(12.0)
    assert describe({"x": x}) != describe({"x": x.at[jnp.array([3, 7])].set(x[jnp.array([7, 3])])})


def test_fewer_than_two_checkpoints_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 1"):
        Checkpoints(tmp_path, keep=1)


PROGRAM = """
import sys
import jax.numpy as jnp
from rcsd_jax.checkpoint import Checkpoints, Meta
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(7, {"x": jnp.arange(1_000_000.0)}, Meta())
    LEAVE
"""


@pytest.mark.parametrize("leave", ["pass", "sys.exit(3)", "raise RuntimeError('stop')"])
def test_no_way_out_of_the_with_block_loses_the_last_save(tmp_path, leave):
    program = PROGRAM.replace("LEAVE", leave)
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=Path(__file__).parents[1], check=False, timeout=240)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"x": jnp.zeros(1_000_000)}, Meta())
    assert restored.step == 7
    np.testing.assert_array_equal(restored.state["x"], np.arange(1_000_000.0, dtype=np.float32))


FULL_DISK = """
import resource, signal, sys, time
import jax
from rcsd_jax import checkpoint
from rcsd_jax.checkpoint import Checkpoints, Meta
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing past the limit is then an error, like a full disk
checkpoint._PAUSE_SECONDS = 0
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
state = {"x": jax.random.normal(jax.random.key(0), (300_000,))}
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state, Meta(), last=True)
    allow(ROOM)
    checkpoints.save(2, state, Meta())
    checkpoints.save(3, state, Meta())
    while checkpoints._manager.is_saving_in_progress():
        time.sleep(0.01)
    allow(most)
    checkpoints.save(4, state, Meta())
    checkpoints.wait()
    allow(ROOM)
    try:
        LOSE
    except Exception as error:
        print("REPORTED", type(error).__name__)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs file size limits")
@pytest.mark.parametrize("room", [0, 200_000])
@pytest.mark.parametrize(
    ("lose", "newest"),
    [
        ("checkpoints.save(5, state, Meta(), last=True)", 4),
        ("[checkpoints.save(step, state, Meta()) for step in range(5, 9)]", 4),
        ("checkpoint.time.sleep = lambda _: allow(most); checkpoints.save(5, state, Meta(), last=True)", 5),
    ],
)
def test_a_full_disk_costs_a_checkpoint_three_in_a_row_the_run_and_never_one_that_is_there(
    tmp_path, room, lose, newest
):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.replace("LOSE", lose).replace("ROOM", str(room)), tmp_path],
        cwd=Path(__file__).parents[1], env=environment, check=False, timeout=240, capture_output=True, text=True,
    )  # fmt: skip
    assert ("REPORTED" in done.stdout) == (newest == 4), done.stderr[-2000:]
    # Steps 2 and 3, and the first two of those that came later, or one.
    assert done.stderr.count("a checkpoint was not saved") == 2 + (2 if newest == 4 else 1), done.stderr[-4000:]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore({"x": jnp.zeros(300_000)}, Meta()).step == newest


def test_threads_of_a_failed_save_may_still_write_while_its_rest_is_removed(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        state = {"x": jnp.arange(5.0)}
        checkpoints.save(1, state, Meta(), last=True)
        half = tmp_path / "2.orbax-checkpoint-tmp" / "state"
        half.mkdir(parents=True)
        is_over = threading.Event()

        def straggle():
            for n in itertools.count():
                if is_over.is_set():
                    return
                with contextlib.suppress(OSError):
                    half.mkdir(parents=True, exist_ok=True)
                    (half / f"late{n}").write_text("")

        checkpoints._is_broken = True
        threads = [threading.Thread(target=straggle) for _ in range(4)]
        [thread.start() for thread in threads]
        threading.Timer(0.5, is_over.set).start()
        checkpoints.save(3, state, Meta(), last=True)
        [thread.join() for thread in threads]
        assert "was not saved" not in caplog.text
        assert checkpoints.restore(state, Meta()).step == 3


def test_a_folder_that_stays_out_of_reach_ends_the_run(tmp_path, monkeypatch):
    def out_of_reach(_):
        raise OSError("out of reach")

    state = {"x": jnp.arange(5.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, Meta())
        checkpoints.wait()
        checkpoints._is_broken = True
        monkeypatch.setattr(Checkpoints, "_opened", out_of_reach)
        checkpoints.save(2, state, Meta())
        checkpoints.save(3, state, Meta())
        with pytest.raises(OSError, match="out of reach"):
            checkpoints.save(4, state, Meta())


class OneOfTwo:
    """Jax as a host of two sees it; orbax itself goes on alone."""

    def __getattr__(self, name):
        return getattr(jax, name)

    def process_count(self):
        return 2


@pytest.mark.parametrize("when", ["before it is written", "while it is waited for", "before another error"])
def test_of_several_hosts_one_that_cannot_save_waits_for_nobody(when, tmp_path, monkeypatch):
    failing, others = threading.Event(), threading.Event()

    def full(*_, **__):
        if threading.current_thread() is not threading.main_thread():
            failing.wait()
            raise OSError("no space left")

    def full_at_once(*_, **__):
        raise OSError("no space left")

    checkpoints = Checkpoints(tmp_path)
    manager, tracker = checkpoints._manager, checkpoints._manager._save_progress_tracker
    tell = tracker.set
    monkeypatch.setattr(checkpoint, "jax", OneOfTwo())
    if when == "before it is written":
        monkeypatch.setattr(manager._checkpointer, "save", full_at_once)
    else:
        monkeypatch.setattr(manager._checkpointer, "wait_until_finished", full)
        # The thread that ends a save tells the other hosts, which are not there.
        monkeypatch.setattr(tracker, "set", lambda value: (value or others.wait(), tell(value)))
    with pytest.raises(ending.Alone, match="no space left") as raised, checkpoints:
        checkpoints.save(1, {"x": jnp.arange(5.0)}, Meta())
        threading.Timer(0.3, failing.set).start()
        if when == "before another error":
            failing.wait()
            while manager.failure is None:
                time.sleep(0.01)
            raise ValueError("another")
    assert ending.lost_host(raised.value)
    others.set()
