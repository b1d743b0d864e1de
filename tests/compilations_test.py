"""The ledger of compilations tells every shape once, with its seconds."""

import jax.numpy as jnp

from rcsd_jax import compilations


def total(tree):
    return {"sum": jnp.sum(tree["tokens"]) + jnp.sum(tree["weights"])}


def lines(name):
    return [line for line in compilations.ledger() if line.name == name]


def batch(rows):
    return {"tokens": jnp.ones((rows, 3), jnp.int32), "weights": jnp.ones((rows, 3))}


def test_every_shape_is_a_line_of_the_ledger_and_a_second_call_is_none():
    compiled = compilations.jit("total_of_this_test", total)
    for rows in (2, 2, 4, 2):
        assert compiled(batch(rows))["sum"] == rows * 6
    assert [line.shapes for line in lines("total_of_this_test")] == ["[2,3]", "[4,3]"]
    assert all(line.seconds > 0 for line in lines("total_of_this_test"))


def test_options_reach_jax_and_other_functions_stay_out_of_the_line():
    double = compilations.jit("double_of_this_test", lambda tokens: tokens * 2, donate_argnums=0)
    other = compilations.jit("other_of_this_test", lambda tokens: tokens + 1)
    tokens = jnp.ones((2, 5), jnp.int32)
    double(tokens)
    assert tokens.is_deleted()
    before = lines("double_of_this_test")[0].seconds
    other(jnp.ones((2, 5), jnp.int32))
    assert lines("double_of_this_test")[0].seconds == before
