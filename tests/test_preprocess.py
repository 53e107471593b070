import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from tiny import dense

from wound_jax.data.preprocess import fit_preprocessing
from wound_jax.devices.host_memory import as_aligned
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

N_CELLS, N_GENES = 60, 30
GENES = [f"g{i}" for i in range(N_GENES)]
EVERYONE = np.arange(N_CELLS)
TRAINING = np.arange(0, N_CELLS, 2)


def draw_counts(seed: int = 0, n_genes: int = N_GENES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rate = (0.3 + rng.gamma(0.8, 4.0, n_genes)) * rng.gamma(2.0, 0.5, (N_CELLS, n_genes))
    counts = rng.poisson(rate).astype(np.float32)
    counts[:, 0] += 1
    return counts


COUNTS = draw_counts()
LOG = np.log1p(1e4 * COUNTS / COUNTS.sum(1, keepdims=True, dtype=np.float64)).astype(np.float32)
# Enough genes that scanpy's bins of mean expression hold several each, and no two tie.
MANY = draw_counts(n_genes=200)
FORMS = {
    "dense": np.array,
    "csr": sp.csr_matrix,
    "integers": lambda x: sp.csr_matrix(x.astype(np.int64)),
    "fortran": lambda x: np.asfortranarray(x.astype(np.float64)),
}


@pytest.mark.parametrize("form", FORMS)
def test_log1p_cp10k_is_the_formula(form):
    values = FORMS[form](COUNTS)
    before = dense(values).copy()
    fitted = fit_preprocessing(values, GENES, EVERYONE, "log1p_cp10k", None)
    found, absent = fitted.apply(values, GENES)
    total = COUNTS.sum(1, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(found, np.log1p(1e4 * COUNTS / total), rtol=1e-6)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert absent == []
    assert (dense(values) == before).all(), "the caller's matrix was changed"


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_log1p_cp10k_is_what_scanpy_computes_by_hand(form):
    values = FORMS[form](COUNTS)
    fitted = fit_preprocessing(values, GENES, EVERYONE, "log1p_cp10k", None)
    np.testing.assert_array_equal(fitted.apply(values, GENES)[0], log1p_by_hand(COUNTS))


@pytest.mark.parametrize("form", ["dense", "csr", "fortran"])
def test_none_keeps_the_values(form):
    values = FORMS[form](LOG)
    fitted = fit_preprocessing(values, GENES, EVERYONE, "none", None)
    found, _ = fitted.apply(values, GENES)
    assert (found == LOG).all()
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_float32_that_is_as_it_should_be_is_not_copied():
    """As it should be is: these genes in this order, by row, aligned for devices."""
    values = as_aligned(LOG)
    fitted = fit_preprocessing(values, GENES, EVERYONE, "none", None)
    assert np.shares_memory(fitted.apply(values, GENES)[0], values)


def log1p_by_hand(counts: np.ndarray) -> np.ndarray:
    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return dense(adata.X)


def highly_variable_by_hand(log_values: np.ndarray, n: int) -> list[str]:
    adata = ad.AnnData(log_values)
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    sc.pp.highly_variable_genes(adata, n_top_genes=n, flavor="seurat")
    return list(adata.var_names[adata.var["highly_variable"]])


@pytest.mark.parametrize("kind", ["none", "log1p_cp10k"])
@pytest.mark.parametrize("n_hvg", [5, 60, 200])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_variable_genes_are_those_of_scanpy_on_the_training_cells(kind, n_hvg, form):
    names, log_values = [f"g{i}" for i in range(200)], log1p_by_hand(MANY)
    values = FORMS[form](log_values if kind == "none" else MANY)
    fitted = fit_preprocessing(values, names, TRAINING, kind, n_hvg)
    expected = highly_variable_by_hand(log_values[TRAINING], n_hvg)
    assert list(fitted.genes) == expected
    assert len(expected) == n_hvg
    assert list(fitted.normalisation_genes) == names
    kept = [names.index(gene) for gene in fitted.genes]
    np.testing.assert_array_equal(fitted.apply(values, names)[0], log_values[:, kept])


def test_variable_genes_follow_the_training_cells_alone():
    def fit(counts):
        return fit_preprocessing(counts, GENES, TRAINING, "log1p_cp10k", 5)

    held_out = np.setdiff1d(EVERYONE, TRAINING)
    loud, steady = [GENES.index(g) for g in (fit(COUNTS).genes[0], fit(COUNTS).genes[-1])]
    changed = COUNTS.copy()
    changed[held_out] = draw_counts(seed=1)[held_out]
    changed[held_out[::2], steady] = 500
    assert fit(changed) == fit(COUNTS)
    changed = COUNTS.copy()
    changed[TRAINING, loud] = np.rint(changed[TRAINING].sum(1) / 20)
    assert fit(changed).genes != fit(COUNTS).genes


def test_as_many_variable_genes_as_asked_for_where_they_tie():
    twins = np.repeat(COUNTS[:, : N_GENES // 2], 2, axis=1)
    log_values = np.log1p(twins)
    assert len(highly_variable_by_hand(log_values, 5)) == 6
    fitted = fit_preprocessing(log_values, GENES, EVERYONE, "none", 5)
    assert len(fitted.genes) == 5
    assert set(fitted.genes) <= set(highly_variable_by_hand(log_values, 5))


def test_more_variable_genes_than_vary_are_an_error():
    still = COUNTS.copy()
    still[TRAINING, 10:] = 0
    with pytest.raises(UserError, match=r"data\.n_hvg=11, but only 10 genes vary"):
        fit_preprocessing(np.log1p(still), GENES, TRAINING, "none", 11)
    assert len(fit_preprocessing(np.log1p(still), GENES, TRAINING, "none", 10).genes) == 10
    # Pairs of twins have no normalised dispersion, but they vary: before genes that do not.
    twins = np.repeat(COUNTS[:, : N_GENES // 2], 2, axis=1)
    twins[:, :10] = 0
    assert fit_preprocessing(np.log1p(twins), GENES, EVERYONE, "none", 20).genes == (*GENES[10:],)
    with pytest.raises(UserError, match=rf"data\.n_hvg=31, but the data have {N_GENES} genes"):
        fit_preprocessing(LOG, GENES, EVERYONE, "none", 31)


def shuffled_with_extras(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Columns in another order, between columns of other genes."""
    rng = np.random.default_rng(3)
    extra = rng.poisson(5.0, (N_CELLS, 7)) + (0.5 if values is LOG else 0.0)
    order = rng.permutation(N_GENES + 7)
    names = np.array([*GENES, *(f"extra{i}" for i in range(7))])[order]
    return np.hstack([values, extra]).astype(np.float32)[:, order], list(names)


@pytest.mark.parametrize(("kind", "values"), [("none", LOG), ("log1p_cp10k", COUNTS)])
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("n_hvg", [None, 12])
def test_shuffled_and_extra_genes_give_identical_values(kind, values, form, n_hvg):
    fitted = fit_preprocessing(values, GENES, TRAINING, kind, n_hvg)
    other, names = shuffled_with_extras(values)
    expected, _ = fitted.apply(FORMS[form](values), GENES)
    found, _ = fitted.apply(FORMS[form](other), names)
    assert (found == expected).all()


def test_missing_genes_are_an_error_unless_zeros_are_asked_for():
    others = [gene for gene in GENES if gene not in ("g0", "g4")]
    fitted = fit_preprocessing(LOG, GENES, EVERYONE, "none", None)
    with pytest.raises(UserError, match=r"2 genes.*\(g0, g4\).*2 of the 30.*--missing zero"):
        fitted.apply(np.delete(LOG, [0, 4], axis=1), others)
    for form in ("dense", "csr"):
        given = FORMS[form](np.delete(LOG, [0, 4], axis=1))
        before = dense(given).copy()
        found, absent = fitted.apply(given, others, missing="zero")
        assert absent == ["g0", "g4"]
        assert (found[:, [0, 4]] == 0).all()
        assert (np.delete(found, [0, 4], axis=1) == np.delete(LOG, [0, 4], axis=1)).all()
        assert (dense(given) == before).all()


def test_an_absent_gene_in_place_of_another_leaves_the_file_alone():
    """As many genes as the model has, the first of them another one: nothing may look in place."""
    fitted = fit_preprocessing(LOG, GENES, EVERYONE, "none", None)
    given = LOG.copy()
    found, absent = fitted.apply(given, ["other", *GENES[1:]], missing="zero")
    assert absent == ["g0"]
    assert (found[:, 0] == 0).all()
    assert (given == LOG).all()


def test_a_total_needs_every_gene_it_was_taken_over():
    fitted = fit_preprocessing(COUNTS, GENES, TRAINING, "log1p_cp10k", 6)
    summed = next(i for i, gene in enumerate(GENES) if gene not in fitted.genes)
    fewer, names = np.delete(COUNTS, summed, axis=1), [*GENES[:summed], *GENES[summed + 1 :]]
    with pytest.raises(UserError, match=rf"\({GENES[summed]}\): 0 of the 6 .* each cell's total"):
        fitted.apply(fewer, names)
    found, absent = fitted.apply(fewer, names, missing="zero")
    assert absent == [GENES[summed]]
    kept = [names.index(gene) for gene in fitted.genes]
    expected = np.log1p(1e4 * fewer / fewer.sum(1, keepdims=True))[:, kept]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Log values are what they are, whatever other genes a file has.
    logs = fit_preprocessing(LOG, GENES, TRAINING, "none", 6)
    summed = next(i for i, gene in enumerate(GENES) if gene not in logs.genes)
    names = [*GENES[:summed], *GENES[summed + 1 :]]
    assert logs.apply(np.delete(LOG, summed, axis=1), names)[1] == []


def test_a_file_with_none_of_the_genes_is_an_error_all_the_same():
    fitted = fit_preprocessing(LOG, GENES, EVERYONE, "none", None)
    with pytest.raises(UserError, match=r"none of the model's 30 genes.*g0, g1"):
        fitted.apply(LOG, [f"ENSG{i}" for i in range(N_GENES)], missing="zero")


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_the_other_scale_is_an_error_both_ways(form):
    with pytest.raises(UserError, match=r"integer counts \(up to .*preprocess=log1p_cp10k"):
        fit_preprocessing(FORMS[form](COUNTS), GENES, EVERYONE, "none", None)
    with pytest.raises(UserError, match=r"expects integer counts.*such as .*preprocess=none"):
        fit_preprocessing(FORMS[form](LOG), GENES, EVERYONE, "log1p_cp10k", None)
    with pytest.raises(UserError, match="such as -1"):
        fit_preprocessing(FORMS[form](COUNTS - 1), GENES, EVERYONE, "log1p_cp10k", None)
    fitted = fit_preprocessing(FORMS[form](COUNTS), GENES, EVERYONE, "log1p_cp10k", None)
    with pytest.raises(UserError, match="expects integer counts"):
        fitted.apply(FORMS[form](LOG), GENES)


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
def test_a_cell_without_molecules_stays_empty():
    counts = COUNTS.copy()
    counts[5] = 0
    for values in (counts, sp.csr_matrix(counts)):
        fitted = fit_preprocessing(values, GENES, EVERYONE, "log1p_cp10k", None)
        assert (fitted.apply(values, GENES)[0][5] == 0).all()


def test_a_gene_named_twice_is_an_error():
    names = [*GENES[:-1], "g3"]
    with pytest.raises(UserError, match="gene 'g3' is named more than once"):
        fit_preprocessing(LOG, names, EVERYONE, "none", None)
    with pytest.raises(UserError, match="gene 'g3' is named more than once"):
        fit_preprocessing(LOG, GENES, EVERYONE, "none", None).apply(LOG, names)
