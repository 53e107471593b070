"""The scale of expression is told by the values; what is not the expected one is refused."""

import json
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from tiny import dense, tiny_adata, tiny_config, write

from wound_jax.data import source
from wound_jax.data.prepare import prepare, read_external
from wound_jax.data.preprocess import Preprocessing, fit_preprocessing
from wound_jax.data.scale import Origin, ScaleCheck
from wound_jax.data.scale_kinds import TotalRange
from wound_jax.data.spec import DataSpec
from wound_jax.data.store.convert import convert
from wound_jax.errors import UserError
from wound_jax.prediction.blocks import Scratch, expression_of

pytestmark = pytest.mark.quick

TINY: Any = tiny_adata()
COUNTS = dense(TINY.layers["counts"]).astype(np.float64)
TOTAL = COUNTS.sum(1, keepdims=True)
GENES = [f"gene{i}" for i in range(40)]
NAMES = np.array([f"cell{i}" for i in range(120)])
FORMS = {"dense": np.asarray, "csr": sp.csr_matrix}
in_each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks even of tiny cells: 64 rows each."""
    monkeypatch.setattr(source, "_BLOCK_VALUES", 1)


def cp(total: float) -> np.ndarray:
    """The counts of each cell brought to a total."""
    return total * COUNTS / TOTAL


def ambient() -> np.ndarray:
    return np.maximum(COUNTS - np.random.default_rng(0).uniform(0, 0.9, COUNTS.shape), 0)


def z_scores() -> np.ndarray:
    logs = np.log1p(cp(1e4))
    return (logs - logs.mean(0)) / logs.std(0)


def check(values: Any, kind: str = "none", **given: Any) -> None:
    """All cells, in two blocks."""
    scale = ScaleCheck(kind, Origin("cells.h5ad: X", NAMES, GENES, **given))
    for rows in (slice(0, 64), slice(64, None)):
        scale.add(values[rows])
    scale.require()


UNLOGGED: dict[str, tuple[np.ndarray, str]] = {
    "CP10K": (cp(1e4), "unlogged CP10K"),
    "CPM": (cp(1e6), "unlogged CPM"),
    "median": (cp(321), "unlogged counts normalised to 321 a cell"),
    "shares": (cp(1), "unlogged shares of a cell's total"),
    "log2": (np.log2(1 + cp(1e4)), r"log2\(CP10K \+ 1\)"),
    "log10": (np.log10(1 + cp(1e4)), r"log10\(CP10K \+ 1\)"),
    "log10(CPM)": (np.log10(1 + cp(1e6)), r"log10\(CPM \+ 1\)"),
    "log1p(CPM)": (np.log1p(cp(1e6)), r"log1p\(CPM\)"),
    "roots": (np.sqrt(cp(1e4)), "square roots of CP10K"),
    "ambient": (10 * ambient(), r"counts that are no integers \(ambient-corrected"),
    "z-scores": (z_scores(), r"scaled values \(z-scores\)"),
    "clipped": (np.clip(z_scores(), -1, 3), r"scaled values \(z-scores\)"),
    "of the maximum": (cp(1e4) / cp(1e4).max(0), "values scaled to at most 1"),
    "counts": (COUNTS, "integer counts"),
    "counts up to 2": (np.minimum(COUNTS, 2), "integer counts"),
}


@in_each_form
@pytest.mark.parametrize("name", UNLOGGED)
def test_what_is_not_log1p_of_cp10k_is_refused_with_what_it_looks_like(name, form):
    values, what = UNLOGGED[name]
    for dtype in (np.float32, np.float64):
        with pytest.raises(UserError, match=what) as error:
            check(FORMS[form](values.astype(dtype)))
        assert str(error.value).startswith("cells.h5ad: X ")
        assert "data.preprocess=none expects log1p(CP10K)" in str(error.value)
        assert "or set data.scale=trust" in str(error.value)
        assert "\n" not in str(error.value)


WHOLE = {"counts", "counts up to 2"}


@in_each_form
@pytest.mark.parametrize("name", sorted({*UNLOGGED} - WHOLE - {"of the maximum"}))
def test_where_counts_are_expected_others_are_refused_with_what_they_look_like(name, form):
    values, what = UNLOGGED[name]
    with pytest.raises(UserError, match=rf"expects integer counts.*cells\.h5ad: X .*{what}"):
        check(FORMS[form](values.astype(np.float32)), "log1p_cp10k")


SELECTED = {
    "CP10K": (cp(1e5), "unlogged normalised counts"),
    "log2": (np.log2(1 + cp(1e4)), r"log2\(normalised counts \+ 1\)"),
    "log10": (np.log10(1 + cp(1e4)), r"log10\(normalised counts \+ 1\)"),
    "log1p(CPM)": (np.log1p(cp(1e6)), r"log1p\(normalised counts\)"),
    "roots": (np.sqrt(cp(1e4)), "square roots of normalised counts"),
}


@in_each_form
@pytest.mark.parametrize("name", SELECTED)
def test_a_selection_of_genes_shows_its_scale_by_multiples_of_a_molecule(name, form):
    values, what = SELECTED[name]
    with pytest.raises(UserError, match=what):
        check(FORMS[form](values[:, ::2].astype(np.float32)))
    check(FORMS[form](np.log1p(cp(1e4))[:, ::2].astype(np.float32)))


@in_each_form
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_log_values_pass(form, dtype):
    """Of all genes or of some, normalised to 10,000 or, as scanpy does unasked, to the median."""
    if form == "csr" and dtype == np.float16:
        pytest.skip("scipy has no such matrix")
    logs = np.log1p(cp(1e4))
    some = np.zeros_like(logs)
    some[:, ::3] = logs[:, ::3]
    few = np.zeros_like(logs)
    few[7] = logs[7]
    for values in (logs, some, few, np.zeros_like(logs), np.log1p(cp(16_000)), np.log1p(COUNTS)):
        check(FORMS[form](values.astype(dtype)))


@in_each_form
def test_the_highest_value_is_that_of_a_cell_with_one_gene(form):
    one = np.zeros_like(COUNTS)
    one[:, 3] = np.log1p(1e4)
    check(FORMS[form](one.astype(np.float32)))
    one[100, 3] = 9.3
    with pytest.raises(UserError, match=r"no value exceeds ln 10001 = 9\.2104"):
        check(FORMS[form](one.astype(np.float32)))


def test_counts_pass_where_counts_are_expected_whatever_their_type():
    for dtype in (np.float32, np.int64, np.uint8, np.uint16):
        check(COUNTS.astype(dtype), "log1p_cp10k")
        check(sp.csr_matrix(COUNTS.astype(dtype)), "log1p_cp10k")


BURNT = np.asarray(TINY.obs["treatment"] == "burn")


@in_each_form
@pytest.mark.parametrize(
    ("other", "what"),
    [
        (COUNTS, r"integer counts \(.*\) in 60 of 120 cells \(all of condition 'burn'\)"),
        (
            cp(1e4),
            r"unlogged CP10K \(.*\) in 60 of 120 cells \(all of condition 'burn'\)",
        ),
        (np.log1p(COUNTS), r"on two scales: 60 cells are log1p\(CP10K\).*all of condition 'burn'"),
        (np.log1p(cp(1e6)), r"log1p\(CPM\) \(.*\) in 60 of 120 cells \(all of condition 'burn'\)"),
    ],
)
def test_one_arm_on_another_scale_is_refused_with_its_label(form, other, what):
    values = np.where(BURNT[:, None], other, np.log1p(cp(1e4))).astype(np.float32)
    labels = np.asarray(TINY.obs["treatment"]).astype(str)
    with pytest.raises(UserError, match=what):
        check(FORMS[form](values), conditions=labels)
    with pytest.raises(UserError, match=r"such as cell 'cell\d+'"):
        check(FORMS[form](values))
    # A few cells do as well as an arm.
    few = np.log1p(cp(1e4))
    few[[3, 77]] = np.where(other[[3, 77]] == few[[3, 77]], 0, other[[3, 77]])
    with pytest.raises(UserError, match="cells"):
        check(FORMS[form](few.astype(np.float32)))


@in_each_form
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["none", "log1p_cp10k"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_value_that_is_not_finite_is_named_with_its_cell_and_gene(form, bad, kind, trust):
    values = (np.log1p(cp(1e4)) if kind == "none" else COUNTS).astype(np.float32)
    values[117, 31] = bad
    fit = {"origin": Origin("cells.h5ad: X", NAMES, GENES), "trust": trust}
    with pytest.raises(
        UserError,
        match=rf"cells\.h5ad: X holds NaN or infinite values \({bad} in cell 'cell117', "
        r"gene 'gene31'\), expected numbers; clean the file",
    ):
        fit_preprocessing(FORMS[form](values), GENES, np.arange(120), kind, None, **fit)


def test_an_embedding_is_asked_for_finite_values_alone(tmp_path):
    adata = TINY.copy()
    adata.obsm["emb"] = 50 * adata.obsm["emb"]
    prepare(tiny_config(write(adata, tmp_path), input="obsm/emb"))
    adata.obsm["emb"][7, 2] = np.nan
    with pytest.raises(UserError, match=r"obsm/emb holds .*\(nan in cell 'cell7', dimension 2\)"):
        prepare(tiny_config(write(adata, tmp_path), input="obsm/emb"))


@pytest.mark.parametrize("values", [cp(1e4), z_scores(), ambient(), COUNTS])
def test_trust_takes_any_finite_values_in_memory_and_in_a_store(values, tmp_path):
    adata = TINY.copy()
    adata.X = values.astype(np.float32)
    config = tiny_config(write(adata, tmp_path), scale="trust")
    np.testing.assert_array_equal(prepare(config).cells.features, adata.X)
    assert prepare(config).spec.preprocessing.totals is None
    convert(config, tmp_path / "store.h5ad", progress=False)
    data = {"path": str(tmp_path / "store.h5ad"), "location": "disk"}
    stored = config.model_copy(update={"data": config.data.model_copy(update=data)})
    np.testing.assert_array_equal(prepare(stored).cells.features[:], adata.X)
    checked = stored.data.model_copy(update={"scale": "check"})
    with pytest.raises(UserError, match=r"data\.scale=check is asked for, .* with trust"):
        prepare(stored.model_copy(update={"data": checked}))


def test_ambient_corrected_counts_can_be_trusted_and_negative_ones_not(tmp_path):
    adata = TINY.copy()
    adata.X = ambient().astype(np.float32)
    settings: dict[str, Any] = {"preprocess": "log1p_cp10k", "scale": "trust"}
    found = prepare(tiny_config(write(adata, tmp_path), **settings)).cells.features
    expected = np.log1p(1e4 * adata.X / adata.X.sum(1, keepdims=True))
    np.testing.assert_allclose(found[:], expected, rtol=1e-5)
    adata.X[3, 3] = -1.5
    with pytest.raises(UserError, match=r"such as -1\.5 in cell 'cell3'"):
        prepare(tiny_config(write(adata, tmp_path), **settings))


def of_totals(values: np.ndarray, **more: Any) -> Preprocessing:
    return fit_preprocessing(values, GENES, np.arange(len(values)), "none", None, **more)


@in_each_form
@pytest.mark.parametrize(
    "other",
    [np.log1p(COUNTS), np.log1p(cp(2_000)), np.log1p(cp(30_000) / 4), np.log1p(COUNTS * 8)],
)
@pytest.mark.parametrize("trained", [cp(1e4), cp(500)])
def test_another_depth_than_in_training_is_refused(form, other, trained):
    fitted = of_totals(np.log1p(trained))
    fitted.apply(np.log1p(trained[:9]), GENES)
    if np.allclose(np.expm1(other).sum(1), 7_500) and trained[0].sum() > 9_000:
        # What is normalised over some more genes than the model has is no other scale.
        fitted.apply(FORMS[form](other), GENES)
        return
    with pytest.raises(
        UserError, match=r"not on the scale that the model was trained on.*in train"
    ):
        fitted.apply(FORMS[form](other), GENES)
    fitted.apply(FORMS[form](other), GENES, trust=True)


def test_a_selection_of_genes_has_a_range_and_other_genes_count_for_nothing():
    logs = np.log1p(cp(1e4)).astype(np.float32)
    fitted = fit_preprocessing(logs[:, :20], GENES[:20], np.arange(120), "none", 9)
    totals = np.expm1(logs[:, :20].astype(np.float64)).sum(1)
    low, high = np.quantile(totals, [0.01, 0.99])
    assert fitted.totals is not None
    np.testing.assert_allclose([fitted.totals.low, fitted.totals.high], [low, high], rtol=1e-5)
    # More genes, whatever is in them.
    more = logs.copy()
    more[:, 20:] = 77.5
    np.testing.assert_array_equal(fitted.apply(more, GENES)[0], fitted.apply(logs, GENES)[0])
    with pytest.raises(UserError, match="not on the scale that the model was trained on"):
        fitted.apply(logs / 2, GENES)


def test_a_stored_spec_keeps_its_totals_and_an_old_one_has_none(tmp_path):
    spec = prepare(tiny_config(write(TINY, tmp_path))).spec
    assert spec.preprocessing.totals == TotalRange(10_000.0, 10_000.0)
    stored = json.loads(json.dumps(spec.to_json()))
    assert DataSpec.from_json(stored).preprocessing.totals == spec.preprocessing.totals
    del stored["preprocessing"]["totals"]
    old = DataSpec.from_json(stored)
    assert old.preprocessing.totals is None
    assert old == spec
    read_external(str(write(TINY, tmp_path)), tiny_config(None).data, old)


def test_another_file_is_compared_with_training_in_memory_and_from_disk(tmp_path):
    spec = prepare(tiny_config(write(TINY, tmp_path))).spec
    other = TINY.copy()
    other.X = np.log1p(COUNTS).astype(np.float32)
    path = write(other, tmp_path, "other.h5ad")
    expected = r"other\.h5ad: X is not on the scale that the model was trained on"
    with pytest.raises(UserError, match=expected):
        read_external(str(path), tiny_config(None).data, spec)
    trusted = tiny_config(None, scale="trust").data
    np.testing.assert_array_equal(read_external(str(path), trusted, spec).cells.features, other.X)
    cells = np.arange(5, 90)
    with source.open_h5ad(path) as file:
        with pytest.raises(UserError, match=expected):
            expression_of(file, spec, "X", cells, Scratch(tmp_path))
        found = expression_of(file, spec, "X", cells, Scratch(tmp_path), trust=True)
    np.testing.assert_array_equal(found[:], other.X[cells])


def test_a_file_names_itself_in_every_command(tmp_path):
    adata = ad.AnnData(obs=TINY.obs, var=TINY.var, layers={"cpm": cp(1e6).astype(np.float32)})
    config = tiny_config(write(adata, tmp_path), input="layers/cpm")
    expected = r"tiny\.h5ad: layers/cpm looks like unlogged CPM"
    with pytest.raises(UserError, match=expected):
        prepare(config)
    with pytest.raises(UserError, match=expected):
        convert(config, tmp_path / "store.h5ad", progress=False)
    assert not (tmp_path / "store.h5ad").exists()
