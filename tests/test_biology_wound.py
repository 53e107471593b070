"""The registered signs against what the simulation is known to do, and the cells to judge by.

Beside the tests stand the strata and the predictions that the other tests of the criteria share.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.strata import Stratum
from wound_jax.data.synthetic import SyntheticWound, simulate
from wound_jax.data.synthetic.markers import MARKERS, TYPES
from wound_jax.errors import UserError
from wound_jax.evaluation.biology.gene_sets import (
    MISLEADING,
    POLARISATION,
    WOUND_MARKERS,
    families_of,
    find_genes,
    is_macrophage,
    signs_in,
)

pytestmark = pytest.mark.quick

TYPE = "cell_types_simple_short"
DAYS = ("day10", "day14", "day19")
KINDS = ("Ker", "Fib", "Neu", "Mac")
# Replicates that a split by replicate would hold out: one of each condition and day.
TEST_MICE = tuple(f"{condition}_{day}_m1" for condition in ("Burn", "Sham") for day in DAYS)


@functools.cache
def wound() -> SyntheticWound:
    return simulate(SyntheticSettings(n_cells=4000, n_genes=700, embedding_dim=8, seed=3))


def genes() -> list[str]:
    return list(wound().adata.var_names)


def dense(matrix) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


@dataclass(frozen=True, eq=False)
class Case:
    """One stratum, and its control cells as they would have been had they been burnt."""

    stratum: Stratum
    truth: np.ndarray


@functools.cache
def cases(mice: str = "all", kinds: tuple[str, ...] = KINDS) -> tuple[Case, ...]:
    """Strata of some types, on all days, of all mice, those of the test or those of training."""
    chosen: Callable[[str], bool] = {
        "all": lambda mouse: True,
        "test": lambda mouse: mouse in TEST_MICE,
        "training": lambda mouse: mouse not in TEST_MICE,
    }[mice]
    adata, truth = wound().adata, wound().truth.adata
    obs = adata.obs
    assert isinstance(obs, pd.DataFrame)
    mouse = obs["mouse_id"].astype(str).to_numpy()
    kept = np.array([chosen(name) for name in mouse])
    found = []
    for kind in kinds:
        for day in DAYS:
            own = kept & (obs[TYPE] == kind).to_numpy() & (obs["timepoint"] == day).to_numpy()
            sham = own & (obs["condition"] == "Sham").to_numpy()
            burn = own & ~sham
            control, treated = (dense(adata[arm].X) for arm in (sham, burn))
            stratum = Stratum(kind, day, control, treated, "Burn", mouse[sham], mouse[burn])
            found.append(Case(stratum, dense(truth[adata.obs_names[sham]].X)))
    return tuple(found)


def strata(found: Sequence[Case]) -> list[Stratum]:
    return [case.stratum for case in found]


def truth(found: Sequence[Case]) -> list[np.ndarray]:
    return [case.truth.copy() for case in found]


def identity(found: Sequence[Case]) -> list[np.ndarray]:
    return [case.stratum.control.copy() for case in found]


def collapsed(found: Sequence[Case]) -> list[np.ndarray]:
    """Every cell of every type is the mean treated cell of all types."""
    mean = np.concatenate([case.stratum.treated for case in found]).mean(axis=0)
    return [np.broadcast_to(mean, case.stratum.control.shape).copy() for case in found]


def reversed_(found: Sequence[Case]) -> list[np.ndarray]:
    """Every cell moves by the true delta, the wrong way."""
    return [
        np.maximum(case.stratum.control - case.stratum.mean_delta, 0.0).astype(np.float32)
        for case in found
    ]


def human(symbols: Sequence[str]) -> list[str]:
    return [symbol.upper() for symbol in symbols]


def test_registered_signs_are_those_of_the_simulated_wound():
    delta, place = wound().truth.log_delta, {gene: i for i, gene in enumerate(genes())}
    judged = 0
    for row, kind in enumerate(TYPES):
        for gene, sign in signs_in(families_of(kind)).items():
            assert (sign * delta[row, :, place[gene]] > 0).all(), (kind, gene)
            judged += 1
    assert judged > 150


def test_every_type_of_the_study_but_two_has_a_family_of_its_own():
    """T cells and Schwann cells are judged by what holds in any cell."""
    families = {kind: families_of(kind) for kind in TYPES}
    assert {kind for kind, found in families.items() if not found} == {"T", "Sch"}
    assert all(len(found) <= 1 for found in families.values())
    assert set(signs_in(families["T"])) == set(MARKERS["burn_cytokines_fig1g"].genes)


def test_a_gene_has_one_sign_in_a_family():
    seen: dict[tuple[str, str], int] = {}
    for marker in WOUND_MARKERS:
        for family in marker.families:
            assert seen.setdefault((marker.gene, family), marker.sign) == marker.sign
        assert marker.source


def test_lists_are_those_that_were_registered(shared):
    registered = json.loads((shared / "data" / "markers.json").read_text())
    assert set(MARKERS) <= set(registered)
    for name, markers in MARKERS.items():
        assert list(markers.genes) == registered[name]["genes"], name
    pro, repair = POLARISATION["pro_inflammatory"], POLARISATION["repair"]
    assert list(pro.genes) == registered["M1_proinflammatory"]["genes"]
    assert {*repair.genes, "Chil3"} == set(registered["M2_prorepair"]["genes"])


def test_the_marker_of_inflammatory_monocytes_is_no_sign_of_repair():
    assert "Chil3" in MARKERS["M2_prorepair"].genes
    assert "Chil3" not in POLARISATION["repair"].genes
    assert not MISLEADING & {marker.gene for marker in WOUND_MARKERS}
    assert "Chil3" in POLARISATION["repair"].source


@pytest.mark.parametrize(
    ("label", "families"),
    [
        ("Mac", {"macrophage"}),
        ("macrophages", {"macrophage"}),
        ("Mono/Mac", {"macrophage", "monocyte"}),
        ("CD14+ Monocytes", {"monocyte"}),
        ("FCGR3A+ Monocytes", {"monocyte"}),
        ("Macrophage_M2", {"macrophage"}),
        ("Megakaryocytes", set()),
        ("Dendritic cells", {"dendritic"}),
        ("Keratinocyte (basal)", {"keratinocyte"}),
        ("Mast cell", set()),
        ("CD4 T cells", set()),
    ],
)
def test_labels_are_read_by_their_words(label, families):
    assert families_of(label) == families
    assert is_macrophage(label) == bool(families & {"macrophage", "monocyte"})


def test_labels_given_by_hand_replace_the_words():
    labels = {"macrophage": ["c7"]}
    assert families_of("c7", labels) == {"macrophage"}
    assert families_of("Mac", labels) == set()
    assert families_of("Ker", labels) == {"keratinocyte"}
    assert is_macrophage("c7", ["c7"])
    assert not is_macrophage("Mac", ["c7"])
    with pytest.raises(UserError, match="Did you mean 'macrophage'"):
        families_of("Mac", {"macrophages": ["Mac"]})


def test_genes_are_found_whatever_their_case_and_as_written_first():
    assert find_genes(["Tnf", "Il6", "Arg1"], ["IL6", "TNF", "Tnf"]) == {"Tnf": 2, "Il6": 0}


def test_human_symbols_of_a_blood_set_are_found(shared):
    cells = ad.read_h5ad(shared / "data" / "kang_ifnb.h5ad", backed="r")
    symbols = list(cells.var_names)
    cells.file.close()
    found = {name: find_genes(one.genes, symbols) for name, one in POLARISATION.items()}
    assert {"Il1b", "Tnf", "Il6"} <= set(found["pro_inflammatory"])
    assert {"Irf4", "Ppard"} <= set(found["repair"])
    assert "Retnla" not in found["repair"]
