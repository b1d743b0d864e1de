"""One table says where every array lies, and what does not fit the devices is refused by name."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rcsd_jax import lm, sharding
from rcsd_jax.sharding import MeshConfig


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("batch", "length"), PartitionSpec(("data", "fsdp"), None)),
        (("vocab", "table_width"), PartitionSpec(("tensor", "fsdp"), None)),
        (("layers", "mlp", "width"), PartitionSpec(None, ("tensor",), ("fsdp",))),
        ((None, "heads"), PartitionSpec(None, ("tensor",))),
        ((), PartitionSpec()),
    ],
)
def test_logical_axes_become_mesh_axes(axes, expected):
    assert sharding.spec(axes) == expected


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (("batch", "widht"), "logical axis 'widht' is unknown"),
        (("batch", "width"), "mesh axis 'fsdp' is used by both 'batch' and 'width'"),
        (("heads", "mlp"), "mesh axis 'tensor' is used by both 'heads' and 'mlp'"),
    ],
)
def test_an_unknown_axis_and_a_mesh_axis_used_twice_are_named(axes, says):
    with pytest.raises(ValueError, match=says):
        sharding.spec(axes)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(data=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=-1, fsdp=1), (8, 1, 1)),
        (MeshConfig(2, 1, 4), (2, 1, 4)),
    ],
)
def test_minus_one_takes_what_the_others_leave(config, shape):
    assert sharding.make_mesh(config).devices.shape == shape


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (MeshConfig(data=3), "'data': 3, 'fsdp': -1, 'tensor': 1} does not fit 8 devices"),
        (MeshConfig(tensor=16), "'tensor': 16} does not fit 8 devices"),
        (MeshConfig(2, 2, 1), "does not fit 8 devices: make data . fsdp . tensor equal to their number"),
        (MeshConfig(-1, -1, 1), "-1 at most once"),
        (MeshConfig(0, -1, 1), "give positive numbers"),
    ],
)
def test_a_mesh_that_does_not_multiply_to_the_devices_is_refused(config, says):
    with pytest.raises(ValueError, match=says):
        sharding.make_mesh(config)


def test_rows_lie_over_data_and_fsdp_and_every_device_has_its_share():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = sharding.place_batch({"tokens_BT": np.arange(24).reshape(8, 3), "weight_B": np.ones(8)}, mesh)
    assert {shard.data.shape for shard in placed["tokens_BT"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed["tokens_BT"], np.arange(24).reshape(8, 3))


def test_a_batch_that_does_not_divide_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="a batch of 12 rows does not divide over 8 devices.*a multiple of 8"):
        sharding.place_batch(np.zeros((12, 3)), sharding.make_mesh())


def test_outside_of_a_mesh_a_constraint_does_nothing():
    x = jax.numpy.ones((3, 5))
    assert sharding.constrain(x, "batch", "width_that_nobody_knows") is x


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_knows_every_axis_of_the_model_and_no_weight_is_on_one_device_alone(tied):
    architecture = lm.Architecture(
        family="qwen3", vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_width=8, mlp_width=48, tied=tied
    )  # fmt: skip
    transformer = lm.Transformer(architecture, lm.Compute(), lm.LoraConfig(rank=4))
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shapes = jax.eval_shape(lambda key: lm.init(transformer, key), jax.random.key(0))
    places = sharding.shardings(lm.axes(transformer), mesh)
    for (path, leaf), place in zip(jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(places), strict=True):
        part = place.shard_shape(leaf.shape)
        if leaf.ndim > 2 or "embed" in jax.tree_util.keystr(path):
            assert np.prod(part) < np.prod(leaf.shape), f"{jax.tree_util.keystr(path)} is whole on every device"


def test_batches_that_do_not_divide_are_named_together_before_anything_is_loaded():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    sharding.check_rows({"config.train.rows": 8, "config.evaluation.batch": 4}, mesh)
    with pytest.raises(ValueError, match=r"config.train.rows is 6, config.evaluation.batch is 2: .* multiples of 4"):
        sharding.check_rows({"config.train.rows": 6, "config.evaluation.batch": 2}, mesh)


def test_a_model_that_does_not_divide_is_refused_with_the_nearest_meshes():
    mesh = sharding.make_mesh(MeshConfig(fsdp=1, tensor=8))
    sizes = {"vocab": 64, "heads": 4, "kv_heads": 2, "mlp": 48, "width": 32}
    with pytest.raises(ValueError, match=r"4 heads over tensor, 2 kv_heads over tensor; .* \(2, 2, 2\)"):
        sharding.check_sizes(sizes, mesh)
    sharding.check_sizes(sizes, sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert sharding.nearest((1, 4, 2), 8, rows=[9], sizes={"vocab": 63}).startswith("no mesh of 8 devices works")


def test_the_nearest_meshes_divide_rows_and_model_together():
    sizes = {"vocab": 151936, "heads": 32, "kv_heads": 8}
    found = sharding.working((1, 256, 1), 256, rows=[32], sizes=sizes)
    assert found[0] == (2, 16, 8)  # 1 x 32 x 8 would cut 151,936 words into 256 parts
    assert all(32 % (d * f) == 0 and 8 % t == 0 and 151936 % (f * t) == 0 for d, f, t in found)
    with pytest.raises(ValueError, match="config.train.rows is 12.*would work as"):
        sharding.check_rows({"config.train.rows": 12}, sharding.make_mesh())


def test_functions_of_rows_run_on_each_device_alone():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = sharding.place_batch(np.arange(32.0).reshape(8, 4), mesh)
    largest = sharding.by_rows(lambda x: jax.lax.top_k(x, 1)[0][:, 0])
    with jax.set_mesh(mesh):
        compiled = jax.jit(largest).lower(x).compile()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_array_equal(compiled(x), largest(x))


def test_what_is_traced_for_is_what_the_mesh_is_made_of():
    assert sharding.platform() == jax.default_backend() == "cpu"
    with jax.set_mesh(sharding.make_mesh()):
        assert sharding.platform() == "cpu"
