"""The pair of files for cell-eval: its rules, the fixture through our writer, and its own run."""

import dataclasses
import sys
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.cell_eval import run_cell_eval, write_pair

pytestmark = pytest.mark.quick

GENES = ["Cd86", "Mrc1", "Il1b"]


def logged(rng, n):
    return np.log1p(rng.poisson(2.0, (n, 3)) * 3.7).astype(np.float32)


def study(seed=0) -> tuple[list[Stratum], list[np.ndarray]]:
    """Two types, two days; the controls of the first type serve both days."""
    rng = np.random.default_rng(seed)
    shared = logged(rng, 6)
    strata = [
        Stratum("Fib", "day10", shared, logged(rng, 5), "Burn"),
        Stratum("Fib", "day14", shared.copy(), logged(rng, 4), "Burn"),
        Stratum("T cells, CD4/8", "day10", logged(rng, 7), logged(rng, 3), "Burn"),
        Stratum("T cells, CD4/8", None, logged(rng, 2), logged(rng, 3), "Sting"),
    ]
    return strata, [logged(rng, s.n_control) for s in strata]


def write(folder, strata, predictions, genes=GENES, control_label="Sham"):
    return write_pair(
        folder, strata, predictions, genes, scale="log1p_cp10k", control_label=control_label
    )


def rows(adata: Any, cell_type, label):
    chosen = (adata.obs["cell_type"] == cell_type) & (adata.obs["perturbation"] == label)
    return adata.X[chosen.to_numpy()].toarray()


def check_rules(paths, control_label):
    """Everything the evaluator asks for, on the files as they lie there."""
    pair: list[Any] = [ad.read_h5ad(path) for path in paths]
    real, predicted = pair
    assert list(real.var_names) == list(predicted.var_names)
    for adata in pair:
        values = adata.X.toarray()
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() < 15
        assert adata.obs_names.is_unique
        assert adata.uns["scale"] == "log1p_cp10k"
        assert not adata.obs[["perturbation", "cell_type"]].isna().any(axis=None)
    for cell_type in set(real.obs["cell_type"]):
        of_type = [
            a.obs["perturbation"][a.obs["cell_type"] == cell_type] for a in (real, predicted)
        ]
        assert set(of_type[0]) == set(of_type[1])
        assert control_label in set(of_type[0])
        np.testing.assert_array_equal(
            rows(real, cell_type, control_label), rows(predicted, cell_type, control_label)
        )
    return real, predicted


def test_the_pair_keeps_the_rules_and_the_cells(tmp_path):
    strata, predictions = study()
    real, predicted = check_rules(write(tmp_path / "deep" / "er", strata, predictions), "Sham")
    assert list(real.var_names) == GENES
    for stratum, prediction in zip(strata, predictions, strict=True):
        label = "Sting" if stratum.timepoint is None else f"Burn_{stratum.timepoint}"
        np.testing.assert_array_equal(rows(real, stratum.cell_type, label), stratum.treated)
        np.testing.assert_array_equal(rows(predicted, stratum.cell_type, label), prediction)
    # Six controls serve both days of the first type; the others are different cells.
    np.testing.assert_array_equal(rows(real, "Fib", "Sham"), strata[0].control)
    assert len(rows(real, "T cells, CD4/8", "Sham")) == 9
    assert len(real) == 6 + 5 + 4 + 9 + 3 + 3
    assert len(predicted) == 6 + 6 + 6 + 9 + 7 + 2


def test_control_cells_that_overlap_in_part_are_written_once(tmp_path):
    strata, predictions = study()
    first = strata[0].control
    # A cell that occurs twice among the controls of one stratum is two cells.
    later = np.concatenate([first[:4], first[:1], logged(np.random.default_rng(5), 2)])
    strata[1] = dataclasses.replace(strata[1], control=later)
    real, _ = check_rules(write(tmp_path, strata, predictions), "Sham")
    expected = np.concatenate([first, later[4:]])
    np.testing.assert_array_equal(rows(real, "Fib", "Sham"), expected)


def spoilt(value):
    strata, predictions = study()
    predictions[2][1, 2] = value
    return strata, predictions


def whole():
    strata, predictions = study()
    counts = [np.round(p) for p in predictions]
    strata = [
        dataclasses.replace(s, control=np.round(s.control), treated=np.round(s.treated))
        for s in strata
    ]
    return strata, counts


def untreated():
    strata, predictions = study()
    strata[0] = dataclasses.replace(strata[0], treated=strata[0].treated[:0])
    return strata, predictions


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (spoilt(np.nan), r"T cells, CD4/8 \| day10 \| Burn: the predicted cells hold 1 values"),
        (spoilt(np.inf), "NaN or infinite"),
        (spoilt(-0.5), r"predicted cells run from -0\.5 to .*output_activation=relu"),
        (spoilt(15.0), "to 15; cell-eval takes log-normalised expression"),
        (whole(), "of type Fib for real.h5ad hold whole numbers alone"),
        (untreated(), r"Fib \| day10 \| Burn has 0 treated and 6 predicted cells"),
        (([], []), "0 strata and 0 predictions"),
        ((study()[0], study()[1][:2]), "4 strata and 2 predictions"),
    ],
)
def test_what_breaks_a_rule_is_refused_before_anything_is_written(tmp_path, made, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "pair", *made)
    assert not (tmp_path / "pair").exists()


def test_labels_and_genes_must_fit(tmp_path):
    strata, predictions = study()
    with pytest.raises(UserError, match="'Burn_day10' is the label of the control cells too"):
        write(tmp_path / "pair", strata, predictions, control_label="Burn_day10")
    with pytest.raises(
        UserError, match=r"control cells have shape \(6, 3\); expected \[cells, 2\]"
    ):
        write(tmp_path / "pair", strata, predictions, genes=GENES[:2])
    assert not (tmp_path / "pair").exists()


# --- the fixture ----------------------------------------------------------------------------------


@pytest.fixture
def fixture_pair(shared, tmp_path):
    """The shared reference pair, taken apart into strata and put together by our writer."""
    folder = shared / "fixtures/cell_eval"
    originals: list[Any] = [ad.read_h5ad(folder / f"{name}.h5ad") for name in ("real", "pred")]
    real, predicted = originals
    strata, predictions = [], []
    for cell_type in ("Fib", "Mac"):
        for day in ("day10", "day14", "day19"):
            arms = [
                a.X[((a.obs["cell_type"] == cell_type) & (a.obs["condition"] == label)).to_numpy()]
                for a, label in ((real, "Sham"), (real, f"Burn_{day}"), (predicted, f"Burn_{day}"))
            ]
            control, treated, prediction = (arm.toarray() for arm in arms)
            strata.append(Stratum(cell_type, day, control, treated, "Burn"))
            predictions.append(prediction)
    pair = write(tmp_path / "pair", strata, predictions, list(real.var_names))
    return folder, originals, pair


def test_the_reference_pair_comes_out_as_it_went_in(fixture_pair):
    _, originals, pair = fixture_pair
    for original, path in zip(originals, pair, strict=True):
        written = ad.read_h5ad(path)
        assert list(written.var_names) == list(original.var_names)
        assert len(written) == len(original)
        for (cell_type, label), cells in original.obs.groupby(
            ["cell_type", "condition"], observed=True
        ):
            np.testing.assert_array_equal(
                rows(written, cell_type, label), original[cells.index].X.toarray()
            )
    check_rules(pair, "Sham")


def test_cell_eval_itself_gives_the_reference_results(fixture_pair, tmp_path):
    pytest.importorskip("cell_eval", reason="cell-eval is an optional dependency")
    folder, _, pair = fixture_pair
    table = pd.read_csv(run_cell_eval(pair, tmp_path / "results")).set_index("cell_type")
    for cell_type in ("Fib", "Mac"):
        expected = pd.read_csv(folder / f"bycelltype/{cell_type}_results.csv")
        found = table.loc[cell_type].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


# --- the run --------------------------------------------------------------------------------------


def test_without_the_package_one_message_names_the_extra(tmp_path, monkeypatch):
    strata, predictions = study()
    pair = write(tmp_path, strata, predictions)
    monkeypatch.setattr("wound_jax.evaluation.cell_eval.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'wound_jax\[cell-eval\]'"):
        run_cell_eval(pair, tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program in the place of cell-eval: notes how it was called, writes a table a type."""
    program = tmp_path / "package" / "cell_eval"
    program.mkdir(parents=True)
    (program / "__init__.py").write_text("")
    (program / "__main__.py").write_text(
        "import sys, pathlib\n"
        "at = lambda flag: sys.argv[sys.argv.index(flag) + 1]\n"
        "if at('--control-pert') == 'boom': sys.exit('ValueError: no')\n"
        "for name in ('Fib', 'T cells, CD4-8'):\n"
        "    table = pathlib.Path(at('-o')) / f'{name}_results.csv'\n"
        "    table.write_text(f'perturbation,mse\\nBurn_day10,0.{len(name)}\\n')\n"
    )
    monkeypatch.syspath_prepend(program.parent)
    monkeypatch.setenv("PYTHONPATH", str(program.parent))
    monkeypatch.delitem(sys.modules, "cell_eval", raising=False)


def test_tables_of_the_types_are_put_together(stand_in, tmp_path):
    strata, predictions = study()
    pair = write(tmp_path / "pair", strata, predictions)
    path = run_cell_eval(pair, tmp_path / "results")
    table = pd.read_csv(path)
    assert table.to_dict("list") == {
        "cell_type": ["Fib", "T cells, CD4/8"],
        "perturbation": ["Burn_day10", "Burn_day10"],
        "mse": [0.3, 0.14],
    }
    called = (path.parent / "cell-eval.log").read_text()
    assert "--control-pert Sham --pert-col perturbation --celltype-col cell_type" in called


def test_a_failure_says_what_was_said_and_where_the_rest_is(stand_in, tmp_path):
    strata, predictions = study()
    pair = write(tmp_path / "pair", strata, predictions, control_label="boom")
    with pytest.raises(UserError, match=r"cell-eval failed: ValueError: no .*cell-eval\.log"):
        run_cell_eval(pair, tmp_path / "results")
