"""Tables that a CPU device takes as they lie."""

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from wound_jax.data.preprocess import Preprocessing
from wound_jax.devices.host_memory import aligned_table, as_aligned
from wound_jax.devices.mesh import one_device, place

pytestmark = pytest.mark.quick


def address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


def lies_on_device(values: np.ndarray) -> bool:
    """Whether placing the values on the first CPU device copied nothing."""
    placed = place(values, one_device().replicated)
    return placed.addressable_shards[0].data.unsafe_buffer_pointer() == address(values)


on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices always copy")


@on_cpu
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1000, 301)])
def test_an_aligned_table_is_not_copied_to_a_cpu_device(shape):
    table = aligned_table(*shape)
    assert (table.dtype, table.shape) == (np.float32, shape)
    table[...] = 1.0
    assert lies_on_device(table)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(12.0).reshape(3, 4),
        np.arange(12, dtype=np.float32).reshape(4, 3).T,
        np.arange(24, dtype=np.float32).reshape(3, 8)[:, 1:5],
    ],
    ids=["float64", "by column", "a part"],
)
def test_a_matrix_of_any_form_keeps_its_values(values):
    table = as_aligned(values)
    np.testing.assert_array_equal(table, values.astype(np.float32))
    assert as_aligned(table) is table


@on_cpu
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_preprocessed_cells_are_not_copied_to_a_cpu_device(form):
    values = form(np.linspace(0, 5, 3000, dtype=np.float32).reshape(1000, 3))
    genes = ("a", "b", "c")
    preprocessing = Preprocessing(kind="none", genes=genes, normalisation_genes=genes)
    table, _ = preprocessing.apply(values, genes)
    assert lies_on_device(table)
