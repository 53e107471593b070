"""Training stores: what `convert` writes is the cells of the same run in memory, left on disk."""

import hashlib
import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from tiny import TYPES, dense, tiny_adata, tiny_config, write

from wound_jax import convert as command
from wound_jax.config import dump_config
from wound_jax.config.schema import RunConfig
from wound_jax.data import source
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.data.source import read_parts
from wound_jax.data.store.convert import convert
from wound_jax.data.store.files import open_store
from wound_jax.errors import UserError
from wound_jax.files import DamagedFile
from wound_jax.training.batch import gather

TINY: Any = tiny_adata()
COUNTS: dict[str, Any] = {"input": "layers/counts", "preprocess": "log1p_cp10k"}
CONFIGS: dict[str, dict[str, Any]] = {
    "log values": {},
    "counts": COUNTS,
    "variable genes": {**COUNTS, "n_hvg": 15},
    "some cells": {**COUNTS, "n_hvg": 15, "exclude": {"mouse": ["sham_d1_m0", "burn_d2_m1"]}},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks even of tiny cells: 64 rows each."""
    monkeypatch.setattr(source, "_BLOCK_VALUES", 1)


def on_disk(config: RunConfig, path: Path) -> RunConfig:
    """The same run from a store."""
    data = config.data.model_copy(update={"path": str(path), "location": "disk"})
    return config.model_copy(update={"data": data})


def both(folder: Path, adata: ad.AnnData = TINY, **data: Any) -> tuple[PreparedData, PreparedData]:
    """The cells of a run in memory and from a store."""
    config = tiny_config(write(adata, folder), **data)
    convert(config, folder / "store.h5ad", progress=False)
    return prepare(config), prepare(on_disk(config, folder / "store.h5ad"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_store_holds_the_cells_of_the_run_in_memory(name, tmp_path):
    memory, disk = both(tmp_path, **CONFIGS[name])
    assert disk.cells.on_disk
    assert not memory.cells.on_disk
    np.testing.assert_array_equal(disk.cells.features[:], memory.cells.features)
    assert disk.spec == memory.spec
    assert disk.fingerprint == memory.fingerprint
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(disk.split.treated[part], memory.split.treated[part])
        np.testing.assert_array_equal(disk.split.controls[part], memory.split.controls[part])
    assert list(disk.cells.annotations.names) == list(memory.cells.annotations.names)


@pytest.mark.parametrize("form", [sp.csc_matrix, dense, lambda x: dense(x).astype(np.float64)])
def test_the_storage_of_the_source_makes_no_difference(form, tmp_path):
    other = TINY.copy()
    other.X = form(TINY.X)
    memory, disk = both(tmp_path, other)
    np.testing.assert_array_equal(disk.cells.features[:], memory.cells.features)
    assert disk.fingerprint == memory.fingerprint


@pytest.mark.parametrize("short_sets", ["mask", "resample"])
def test_the_same_seed_gives_the_same_batches(short_sets, tmp_path):
    memory, disk = both(tmp_path, short_sets=short_sets, **CONFIGS["variable genes"])
    config = tiny_config(tmp_path, short_sets=short_sets).data
    for epoch in range(2):
        plans = [data.plan_builder("train", config, 3).epoch(epoch) for data in (memory, disk)]
        for one, other in zip(*(plan.batches(4) for plan in plans), strict=True):
            a, b = (gather(data.cells, one) for data in (memory, disk))
            jax.tree.map(np.testing.assert_array_equal, a, b)
            np.testing.assert_array_equal(one.control, other.control)
            np.testing.assert_array_equal(one.target, other.target)


def test_a_store_is_an_h5ad_file_like_others(tmp_path):
    memory, _ = both(tmp_path, **CONFIGS["variable genes"])
    found = ad.read_h5ad(tmp_path / "store.h5ad")
    assert sp.issparse(found.X)
    np.testing.assert_array_equal(dense(found.X), memory.cells.features)
    assert tuple(found.var_names) == memory.spec.genes
    assert list(found.obs["mouse"]) == list(TINY.obs["mouse"])


def test_negative_values_are_asked_for_among_the_training_cells_alone(tmp_path):
    cells = prepare(tiny_config(write(TINY, tmp_path)))
    for part in ("test", "train"):
        values = dense(TINY.X)
        values[cells.split.treated[part][0], 0] = -0.5
        other = TINY.copy()
        other.X = values
        memory, disk = both(tmp_path, other, scale="trust")
        assert disk.spec.non_negative == memory.spec.non_negative == (part == "test")


def test_the_genes_follow_the_training_cells_and_another_split_is_refused(tmp_path):
    config = tiny_config(write(TINY, tmp_path), **CONFIGS["variable genes"])
    convert(config, tmp_path / "store.h5ad", progress=False)
    stored = on_disk(config, tmp_path / "store.h5ad")
    other = stored.model_copy(update={"split": stored.split.model_copy(update={"seed": 7})})
    with pytest.raises(UserError, match=r"15 variable genes were chosen on the training cells of"):
        prepare(other)
    # A trained model brings its genes along; its cells may be scored under another split.
    spec = prepare(stored).spec
    assert prepare(other, spec).spec is spec
    # All genes are the same under every split.
    config = tiny_config(write(TINY, tmp_path), **COUNTS)
    convert(config, tmp_path / "all.h5ad", progress=False)
    assert prepare(on_disk(other, tmp_path / "all.h5ad").model_copy(
        update={"data": on_disk(config, tmp_path / "all.h5ad").data}
    )).cells.on_disk  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_hvg": 10}, r"data\.n_hvg=10 is asked for, the store was converted with 15"),
        ({"input": "X"}, r"data\.input=X is asked for, .* layers/counts"),
        ({"preprocess": "none"}, r"data\.preprocess=none is asked for, .* log1p_cp10k"),
        ({"exclude": {"mouse": ("sham_d1_m0",)}}, r"data\.exclude=.*sham_d1_m0.*with \{\}"),
    ],
)
def test_a_store_of_other_settings_is_refused(change, message, tmp_path):
    config = tiny_config(write(TINY, tmp_path), **CONFIGS["variable genes"])
    convert(config, tmp_path / "store.h5ad", progress=False)
    stored = on_disk(config, tmp_path / "store.h5ad")
    data = stored.data.model_copy(update=change)
    with pytest.raises(UserError, match=rf"does not fit the config: {message}.*convert --config"):
        prepare(stored.model_copy(update={"data": data}))


def test_a_store_of_another_model_is_refused(tmp_path):
    _, disk = both(tmp_path, **CONFIGS["variable genes"])
    config = tiny_config(tmp_path / "store.h5ad", location="disk", **COUNTS)
    spec = prepare(tiny_config(write(TINY, tmp_path), **COUNTS)).spec
    with pytest.raises(UserError, match=r"holds 15 genes .* not the 40 genes"):
        prepare(config, spec)
    assert disk.spec.genes != spec.genes


def test_a_file_that_is_no_whole_store_is_refused(tmp_path):
    config = tiny_config(write(TINY, tmp_path))
    with pytest.raises(UserError, match=r"is no training store.*convert --config CONFIG"):
        prepare(on_disk(config, tmp_path / "tiny.h5ad"))
    store = tmp_path / "store.h5ad"
    convert(config, store, progress=False)
    with pytest.raises(UserError, match=r"is a training store.*data\.location=disk"):
        read_parts(store, {"X"})
    with pytest.raises(UserError, match="is a training store already"):
        convert(tiny_config(store), tmp_path / "again.h5ad", progress=False)
    for compression in ("gzip", None):
        ad.read_h5ad(store).write_h5ad(tmp_path / "other.h5ad", compression=compression)
        with pytest.raises(DamagedFile, match=r"another program wrote it anew .*convert --config"):
            open_store(tmp_path / "other.h5ad")
    (tmp_path / "short.h5ad").write_bytes(store.read_bytes()[:-2000])
    with pytest.raises(UserError, match="was cut short; copy or write it again"):
        open_store(tmp_path / "short.h5ad")


def test_a_store_of_another_layout_is_refused(tmp_path):
    convert(tiny_config(write(TINY, tmp_path)), tmp_path / "store.h5ad", progress=False)
    with h5py.File(tmp_path / "store.h5ad", "r+") as file:
        stored: Any = file["uns/wound_jax_store"]
        stored[()] = json.dumps({**json.loads(stored[()]), "version": 1})
    with pytest.raises(UserError, match=r"has layout 1 of a training store, expected 2"):
        open_store(tmp_path / "store.h5ad")


def flipped(path: Path, at: int, bit: int = 0) -> Path:
    """A copy with one bit changed."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    damaged = path.with_name("damaged.h5ad")
    damaged.write_bytes(content)
    return damaged


def test_a_flipped_bit_anywhere_in_a_store_is_noticed(tmp_path):
    config = tiny_config(write(TINY, tmp_path), **CONFIGS["variable genes"])
    convert(config, tmp_path / "store.h5ad", progress=False)
    store = tmp_path / "store.h5ad"
    with h5py.File(store) as file:
        parts: Any = [file["X/data"], file["X/indices"], file["X/indptr"], file["obs/day/codes"]]
        places = [part.id.get_offset() for part in parts]
    size = store.stat().st_size
    rng = np.random.default_rng(0)
    # The beginning of HDF5's own notes, each array, anywhere, and the seal itself.
    for at in [0, 9, 48, *places, *rng.integers(0, size, 200), size - 48, size - 33, size - 1]:
        with pytest.raises(DamagedFile, match=r"damaged\.h5ad .*convert --config CONFIG") as error:
            prepare(on_disk(config, flipped(store, int(at), int(rng.integers(8)))))
        assert "\n" not in str(error.value)
    assert prepare(on_disk(config, store)).cells.on_disk


@pytest.mark.parametrize("lost", [1, 48, 49])
def test_a_store_without_its_last_bytes_is_refused(lost, tmp_path):
    convert(tiny_config(write(TINY, tmp_path)), tmp_path / "store.h5ad", progress=False)
    whole = (tmp_path / "store.h5ad").read_bytes()
    (tmp_path / "store.h5ad").write_bytes(whole[:-lost])
    with pytest.raises(UserError, match=r"store\.h5ad was .*cut"):
        open_store(tmp_path / "store.h5ad")


def test_a_store_whose_end_is_zeros_is_refused(tmp_path):
    """What a file system may leave of the blocks that were on their way when the power went."""
    convert(tiny_config(write(TINY, tmp_path)), tmp_path / "store.h5ad", progress=False)
    whole = (tmp_path / "store.h5ad").read_bytes()
    torn = tmp_path / "torn.h5ad"
    for at in np.linspace(0, len(whole) - 1, 60, dtype=int):
        torn.write_bytes(whole[:at] + bytes(len(whole) - at))
        with pytest.raises(UserError, match=r"torn\.h5ad"):
            open_store(torn)


def test_a_store_of_several_pieces_is_sealed_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("wound_jax.data.store.seal._PIECE", 1000)
    convert(tiny_config(write(TINY, tmp_path)), tmp_path / "store.h5ad", progress=False)
    content = (tmp_path / "store.h5ad").read_bytes()
    pieces = [content[:-48][i : i + 1000] for i in range(0, len(content) - 48, 1000)]
    digests = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    assert content[-48:] == b"wound_jax seal 1" + hashlib.sha256(digests).digest()
    for at in (0, 999, 1000, len(content) - 49):
        with pytest.raises(DamagedFile, match="is damaged: it is not what was written"):
            open_store(flipped(tmp_path / "store.h5ad", at))


def test_rows_damaged_while_they_are_read_from_are_refused(tmp_path):
    convert(tiny_config(write(TINY, tmp_path)), tmp_path / "store.h5ad", progress=False)
    rows = open_store(tmp_path / "store.h5ad").rows
    with h5py.File(tmp_path / "store.h5ad", "r+") as file:
        places: Any = file["X/indices"]
        places[0] = 40
    assert rows[np.array([5])].shape == (1, 40)
    with pytest.raises(DamagedFile, match=r"rows 0 to 5 have entries outside its 40 columns"):
        rows[np.array([5, 0])]


def test_a_conversion_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = write(TINY, tmp_path)
    store = tmp_path / "store.h5ad"
    store.write_text("precious")
    with pytest.raises(UserError, match=r"layers/counts|integer counts"):
        convert(tiny_config(path, input="layers/counts"), store, progress=False)
    monkeypatch.setattr("wound_jax.data.store.convert.write_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(tiny_config(path), store, progress=False)
    assert store.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.h5ad", "store.h5ad"}


def test_labels_read_from_other_columns_give_another_fingerprint(tmp_path):
    memory, disk = both(tmp_path)
    found = prepare(tiny_config(tmp_path / "store.h5ad", location="disk", timepoint_col=None))
    assert disk.fingerprint == memory.fingerprint != found.fingerprint


def test_the_command_writes_a_store_and_says_how_to_train(tmp_path, capsys):
    config = tiny_config(write(TINY, tmp_path), **CONFIGS["variable genes"])
    (tmp_path / "run.yaml").write_text(dump_config(config))
    out = tmp_path / "store.h5ad"
    words = ["--config", str(tmp_path / "run.yaml"), "--output", str(out)]
    assert command.main(words) == 0
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "writing" in shown
    assert f"{TINY.n_obs} cells x 15 genes" in shown
    assert f"train with data.path={out} data.location=disk" in shown
    assert command.main(words) == 2
    assert "exists; choose another --output, or give --overwrite" in capsys.readouterr().err
    assert command.main([*words, "--overwrite", "--no-progress", "data.n_hvg=12"]) == 0
    assert "reading" not in capsys.readouterr().err
    assert len(open_store(out).genes) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["data.source=synthetic"], "python -m wound_jax synthetic"),
        (["data.input=obsm/emb"], "is an embedding; a training store holds expression"),
    ],
)
def test_what_cannot_be_converted_is_refused(change, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(dump_config(tiny_config(write(TINY, tmp_path))))
    words = ["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "store.h5ad")]
    assert command.main([*words, *change]) == 2
    assert message in capsys.readouterr().err


def test_tiny_cells_fill_several_blocks():
    assert len(list(source.row_blocks(TINY.X))) == -(-TINY.n_obs // 64) > 1
    assert len(TYPES) == 2
