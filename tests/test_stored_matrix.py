"""Matrices of a file are what they say, or refused in words, however they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from tiny import dense, tiny_adata, tiny_config, write

from wound_jax.data import source, stored_matrix
from wound_jax.data.prepare import prepare
from wound_jax.data.source import (
    backed_cells,
    matrix,
    open_h5ad,
    read_parts,
    read_whole,
    row_blocks,
)
from wound_jax.data.store.convert import convert
from wound_jax.data.stored_matrix import sound
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

TINY: Any = tiny_adata()
COUNTS = dense(TINY.layers["counts"])
KEY = "layers/counts"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks even of tiny cells."""
    monkeypatch.setattr(source, "_BLOCK_VALUES", 1)
    monkeypatch.setattr(stored_matrix, "_BLOCK", 700)


def from_memory(path: Path, key: str = KEY) -> np.ndarray:
    return dense(matrix(read_parts(path, {key}), key))


def from_disk(path: Path, key: str = KEY) -> np.ndarray:
    with open_h5ad(path) as file:
        return np.concatenate([dense(b) for _, b in row_blocks(backed_cells(file, key).values)])


def all_at_once(path: Path, key: str = KEY) -> np.ndarray:
    return dense(matrix(read_whole(path), key))


WAYS = {"memory": from_memory, "disk": from_disk, "whole": all_at_once}
each_way = pytest.mark.parametrize("way", WAYS)
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": dense}
SPARSE = ("csr", "csc")


def stored(folder: Path, form: str, change: Callable[[Any], None] | None = None) -> Path:
    """The tiny cells with their counts in one form, and that matrix changed in the file."""
    adata = TINY.copy()
    adata.layers["counts"] = FORMS[form](adata.layers["counts"])
    path = write(adata, folder)
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file[KEY])
    return path


def put(group: Any, name: str, values: np.ndarray) -> None:
    del group[name]
    group.create_dataset(name, data=values, dtype=values.dtype)


def with_duplicates(group: Any, dtype: str = "f4") -> None:
    """Every value above 1 in two entries, which are not beside each other."""
    data, indices, indptr = (group[part][:] for part in ("data", "indices", "indptr"))
    values, places, ends = [], [], [0]
    for i in range(len(indptr) - 1):
        x, at = data[indptr[i] : indptr[i + 1]], indices[indptr[i] : indptr[i + 1]]
        large = x > 1
        values += [np.where(large, 1, x), x[large] - 1]
        places += [at, at[large]]
        ends.append(ends[-1] + len(x) + large.sum())
    put(group, "data", np.concatenate(values).astype(dtype))
    put(group, "indices", np.concatenate(places))
    put(group, "indptr", np.array(ends, dtype="i4"))


@each_way
@pytest.mark.parametrize("form", SPARSE)
def test_entries_of_one_place_are_summed_before_anything_else(way, form, tmp_path):
    path = stored(tmp_path, form, with_duplicates)
    np.testing.assert_array_equal(WAYS[way](path), COUNTS)


def test_sums_of_small_integers_do_not_overflow(tmp_path):
    def twice(group):
        for part in ("data", "indices"):
            put(group, part, np.repeat(group[part][:], 2))
        put(group, "data", np.full(len(group["data"]), 200, "u1"))
        put(group, "indptr", 2 * group["indptr"][:])

    path = stored(tmp_path, "csr", twice)
    for way in (from_memory, from_disk):
        np.testing.assert_array_equal(way(path), 400 * (COUNTS > 0))


@pytest.mark.parametrize("form", SPARSE)
def test_a_run_and_a_store_of_duplicate_entries_are_those_of_the_canonical_matrix(form, tmp_path):
    settings: dict[str, Any] = {"input": KEY, "preprocess": "log1p_cp10k", "n_hvg": 15}
    expected = prepare(tiny_config(write(TINY, tmp_path), **settings))
    config = tiny_config(stored(tmp_path, form, with_duplicates), **settings)
    found = prepare(config)
    assert found.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(found.cells.features, expected.cells.features)
    assert convert(config, tmp_path / "store.h5ad", progress=False).record.fingerprint == (
        expected.fingerprint
    )


def test_entries_of_a_source_in_memory_are_summed_too():
    x = sp.csr_matrix((np.ones(4, "f4"), [1, 1, 0, 1], [0, 2, 4]), shape=(2, 2))
    np.testing.assert_array_equal(dense(sound(x, "X", (2, 2))), [[0, 2], [1, 1]])
    assert x.nnz == 4, "the caller's matrix was changed"
    coo = sp.coo_matrix((np.ones(3, "f4"), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    np.testing.assert_array_equal(dense(sound(coo, "X", (2, 2))), [[0, 2], [1, 0]])


def unsorted(group: Any) -> None:
    indptr = group["indptr"][:]
    for part in ("data", "indices"):
        values = group[part][:]
        for i in range(len(indptr) - 1):
            values[indptr[i] : indptr[i + 1]] = values[indptr[i] : indptr[i + 1]][::-1].copy()
        put(group, part, values)


def big_endian(group: Any) -> None:
    for part in ("data", "indices", "indptr"):
        values = group[part][:]
        put(group, part, values.astype(values.dtype.newbyteorder(">")))


def other_integers(group: Any) -> None:
    put(group, "indices", group["indices"][:].astype("u4"))
    put(group, "indptr", group["indptr"][:].astype("u8"))


@each_way
@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("change", [None, unsorted, big_endian, other_integers])
def test_what_is_valid_is_read_bit_for_bit(way, form, change, tmp_path):
    path = stored(tmp_path, form, change)
    found = WAYS[way](path)
    np.testing.assert_array_equal(found, COUNTS)
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", ["u1", "i8", "f8", "f2", "?"])
@pytest.mark.parametrize("form", SPARSE)
def test_any_type_of_numbers_is_read(form, dtype, tmp_path):
    path = stored(tmp_path, form, lambda g: put(g, "data", g["data"][:].astype(dtype)))
    for way in (from_memory, from_disk):
        np.testing.assert_array_equal(way(path), COUNTS.astype(dtype))


def test_a_dense_matrix_of_another_byte_order_is_read(tmp_path):
    path = stored(tmp_path, "dense")
    with h5py.File(path, "r+") as file:
        attributes = dict(file[KEY].attrs)
        put(file["layers"], "counts", COUNTS.astype(">f4"))
        file[KEY].attrs.update(attributes)
    for way in (from_memory, from_disk):
        np.testing.assert_array_equal(way(path), COUNTS)
        assert way(path).dtype == np.dtype("=f4")


def entry(part: str, at: int, value: int) -> Callable[[Any], None]:
    def change(group):
        group[part][at] = value

    return change


def shorter(part: str, by: int = 1) -> Callable[[Any], None]:
    return lambda group: put(group, part, group[part][:-by])


def shifted(group: Any) -> None:
    put(group, "indptr", np.r_[1, group["indptr"][1:]].astype("i4"))


LAST = len(sp.csr_matrix(COUNTS).data) - 1
CONTRADICTIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "index too large": (entry("indices", 5, 100_000), r"row 0 has an entry in column 100000"),
    "index one too large": (entry("indices", LAST, 40), r"row 119 has .* 40, expected 0 to 39"),
    "negative index": (entry("indices", LAST, -1), r"row 119 has an entry in column -1"),
    "falling": (entry("indptr", 60, 0), r"row 59 begins at \d+ and ends at 0"),
    "far": (entry("indptr", 60, 1 << 30), r"row 60 begins at 1073741824 and ends at \d+"),
    "negative start": (entry("indptr", 60, -7), r"row 59 begins at \d+ and ends at -7"),
    "not from 0": (shifted, r"indptr begins at 1, expected 0"),
    "fewer ends": (shorter("indptr"), r"indptr has 120 entries, expected 121 for 120 rows"),
    "early end": (entry("indptr", 120, LAST), rf"ends at {LAST} \(row 119\), but {LAST + 1}"),
    "fewer values": (shorter("data"), rf"data has {LAST} entries and indices {LAST + 1}"),
    "fewer places": (shorter("indices", 9), rf"indices {LAST - 8}"),
    "fewer of both": (lambda g: (shorter("data")(g), shorter("indices")(g))[0], "indptr ends at"),
    "no indptr": (lambda g: g.__delitem__("indptr"), "it has no indptr"),
    "no shape": (lambda g: g.attrs.__delitem__("shape"), "it has no shape"),
    "real places": (
        lambda g: put(g, "indices", g["indices"][:].astype("f4")),
        "indices holds float32 values, expected integers",
    ),
    "two dimensions": (
        lambda g: put(g, "data", np.stack([g["data"][:]] * 2, 1)),
        "expected one dimension",
    ),
}  # fmt: skip


@each_way
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_matrix_that_contradicts_itself_is_refused_with_its_place(way, name, tmp_path):
    change, what = CONTRADICTIONS[name]
    path = stored(tmp_path, "csr", change)
    expected = rf"tiny\.h5ad: layers/counts contradicts itself: .*{what}.*; write the file anew"
    with pytest.raises(UserError, match=expected):
        WAYS[way](path)


@each_way
def test_by_columns_the_place_is_a_column(way, tmp_path):
    path = stored(tmp_path, "csc", entry("indices", 0, 120))
    with pytest.raises(UserError, match=r"column 0 has an entry in row 120, expected 0 to 119"):
        WAYS[way](path)
    path = stored(tmp_path, "csc", entry("indptr", 3, 0))
    with pytest.raises(UserError, match=r"column 2 begins at \d+ and ends at 0"):
        WAYS[way](path)


def cut(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(values, 9)[9 : 9 + len(values) + rows, 9 : 9 + values.shape[1] + columns]


@each_way
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["X", KEY])
@pytest.mark.parametrize(
    ("rows", "columns", "what"),
    [
        (-1, 0, "has 119 rows, but obs names 120 cells"),
        (5, 0, "has 125 rows, but obs names 120 cells"),
        (0, -1, "has 39 columns, but var names 40 genes"),
        (0, 2, "has 42 columns, but var names 40 genes"),
    ],
)
def test_a_matrix_of_another_shape_than_its_labels_is_refused(
    way, form, key, rows, columns, what, tmp_path
):
    path = write(TINY, tmp_path)
    with h5py.File(path, "r+") as file:
        del file[key]
        ad.io.write_elem(file, key, FORMS[form](sp.csr_matrix(cut(COUNTS, rows, columns))))
    with pytest.raises(UserError, match=rf"tiny\.h5ad: {key} {what}.*write the file anew"):
        WAYS[way](path, key)


@each_way
def test_an_embedding_has_a_row_for_each_cell_and_any_width(way, tmp_path):
    path = write(TINY, tmp_path)
    np.testing.assert_array_equal(WAYS[way](path, "obsm/emb"), TINY.obsm["emb"])
    with h5py.File(path, "r+") as file:
        put(file["obsm"], "emb", TINY.obsm["emb"][:-1])
    with pytest.raises(UserError, match=r"obsm/emb has 119 rows, but obs names 120 cells"):
        WAYS[way](path, "obsm/emb")
    with h5py.File(path, "r+") as file:
        put(file["obsm"], "emb", TINY.obsm["emb"][:, 0])
    with pytest.raises(UserError, match=r"obsm/emb has shape \(120,\), expected rows and columns"):
        WAYS[way](path, "obsm/emb")


@pytest.mark.parametrize("values", [COUNTS.astype("c8"), COUNTS.astype("S4")])
def test_what_are_no_numbers_is_refused(values, tmp_path):
    path = stored(tmp_path, "dense")
    with h5py.File(path, "r+") as file:
        put(file["layers"], "counts", values)
    for way in (from_memory, from_disk):
        with pytest.raises(UserError, match=r"counts holds .* values, expected numbers"):
            way(path)


def test_a_damaged_part_of_a_compressed_matrix_is_one_message(tmp_path):
    path = tmp_path / "tiny.h5ad"
    TINY.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        group: Any = file[KEY]
        values = group["data"]
        piece = values.id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(piece.byte_offset)
        file.write(b"\0" * piece.size)
    for way in (from_memory, from_disk):
        with pytest.raises(UserError, match=r"layers/counts cannot be read, the file is damaged"):
            way(path)
