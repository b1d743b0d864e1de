"""Which tokens count: by place on small pictures, by entropy through the divergence."""

import jax.numpy as jnp
import numpy as np
import pytest

from rcsd_jax.learning.gates import Gates, passes, weights_by_place

TOKENS = np.array(
    [
        [1, 2, 8, 9, 3, 4, 0],  # 8 9 is the marker
        [8, 9, 5, 8, 9, 6, 7],  # the last one counts
        [9, 1, 2, 3, 4, 5, 8],  # half of it at either end is none
        [1, 2, 3, 4, 5, 8, 9],  # nothing comes after it
    ]
)
VALID = np.array([[1, 1, 1, 1, 1, 1, 0]] + [[1] * 7] * 3, np.float32)


def weights(**options):
    return np.asarray(weights_by_place(Gates(**options), jnp.asarray(VALID), jnp.asarray(TOKENS), (8, 9)))


def test_without_gates_nothing_changes():
    np.testing.assert_array_equal(weights(), VALID)


def test_answer_only_is_what_follows_the_last_end_of_thinking():
    expected = np.zeros_like(VALID)
    expected[0, 4:6] = expected[1, 5:] = 1
    np.testing.assert_array_equal(weights(answer_only=True), expected)


def test_the_first_tokens_are_skipped_and_later_ones_count_less():
    expected = VALID.copy()
    expected[:, :3] = 0
    np.testing.assert_array_equal(weights(skip_tokens=3), expected)
    np.testing.assert_allclose(weights(half_life=2.0)[1], [1, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.5**2.5, 0.125])
    assert weights(half_life=2.0)[0, 6] == 0
    np.testing.assert_allclose(weights(half_life=2.0, skip_tokens=3)[1, 3:], weights(half_life=2.0)[1, 3:])


def test_entropies_open_and_close_the_gate():
    student, teacher = jnp.array([0.1, 0.5, 2.0, 2.0]), jnp.array([0.2, 0.2, 0.2, 3.0])
    assert passes(Gates(min_student_entropy=0.5), student, teacher).tolist() == [False, True, True, True]
    assert passes(Gates(max_teacher_entropy=1.0), student, teacher).tolist() == [True, True, True, False]
    both = Gates(min_student_entropy=0.5, max_teacher_entropy=1.0)
    assert passes(both, student, teacher).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    "options", [{"skip_tokens": -1}, {"half_life": 0.0}, {"min_student_entropy": np.inf}, {"max_teacher_entropy": -1.0}]
)
def test_a_wrong_gate_is_refused_by_name(options):
    with pytest.raises(ValueError, match=f"gates.{next(iter(options))} is"):
        Gates(**options)
