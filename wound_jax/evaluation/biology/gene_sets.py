"""Inputs of the biological criteria: gene lists, families of cell types, replicates of a stratum.

Families: a label is cut into words at everything that is no letter or digit, plural or not, in any
    case:

    "CD14+ Monocytes" -> cd14, monocytes -> monocyte;   "Mono/Mac" -> monocyte and macrophage

A label belongs to a family when one of its words is a name of that family. Where a data set's
labels read otherwise, its labels are given by hand.

Gene lists, each with its source and its sign: symbols and sources stand in one place, `MARKERS`;
here is which sets are judged, in which cell types, and which way a wound moves them. Lists are
frozen before a model is scored: a list chosen after looking at predictions proves nothing.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wound_jax.data.annotations import NO_LABEL
from wound_jax.data.strata import Stratum
from wound_jax.data.synthetic.markers import MARKERS
from wound_jax.errors import UserError, unknown_name

# Words in the singular; the short ones are the labels of the study that is imitated.
FAMILIES: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "keratinocyte": "keratinocyte ker kera krt kc epidermal",
        "fibroblast": "fibroblast fib fibro myofibroblast",
        "neutrophil": "neutrophil neu neut neutro pmn",
        "macrophage": "macrophage mac macro mph mdm momac monomac",
        "monocyte": "monocyte mono momac monomac",
        "dendritic": "dendritic dc cdc pdc modc",
        "endothelial": "endothelial endo ec endothelium",
        "pericyte": "pericyte peri smc mural",
        "muscle": "muscle mus myocyte myoblast satellite",
    }.items()
}


_WORD = re.compile(r"[a-z0-9]+")


Labels = Mapping[str, Collection[str]]


def families_of(label: str, labels: Labels | None = None) -> frozenset[str]:
    """The families that a cell type belongs to.

    Args:
        label: the cell type as the data name it.
        labels: family -> the labels that belong to it, exactly as the data write them; a family
            that is named here is no longer matched by words.

    Returns:
        Names of `FAMILIES`; none for a label that says nothing.

    Raises:
        UserError: `labels` names a family that is not known.
    """
    given = labels or {}
    for name in given:
        if name not in FAMILIES:
            raise unknown_name("family of cell types", name, FAMILIES)
    words = set(_WORD.findall(label.lower()))
    words |= {word.removesuffix("s") for word in words}
    return frozenset(
        name
        for name, names in FAMILIES.items()
        if (label in given[name] if name in given else words & names)
    )


def is_macrophage(label: str, labels: Collection[str] | None = None) -> bool:
    """Whether a cell type is scored for polarisation: macrophages and the monocytes they come from.

    Args:
        label: the cell type as the data name it.
        labels: the labels that count, instead of matching by words.
    """
    if labels is not None:
        return label in labels
    return bool(families_of(label) & {"macrophage", "monocyte"})


# Fewer genes of a list than this among the measured ones make no score.
FEWEST_GENES = 3


# A registered response that holds in every cell type.
ANY = "any"


# Chil3 stands in Murray's M2 column, and yet marks inflammatory monocytes in wounds (it is in the
# monocyte set, from mouse injury): with it an influx of monocytes would look like repair.
MISLEADING = frozenset({"Chil3"})


class GeneList(NamedTuple):
    """A list to score cells with.

    Attributes:
        genes: mouse symbols.
        source: where they were published, and what was left out.
    """

    genes: tuple[str, ...]
    source: str


# Two scores and no difference of them: wound macrophages run both programs at once, so a single
# M1-to-M2 axis hides what each does. Both lists are the table of one review; M1_extra and M2_extra
# stay out, as they mix recruitment (Ly6c2, Ccr2) and hypoxia (Vegfa) into polarisation.
POLARISATION: dict[str, GeneList] = {
    "pro_inflammatory": GeneList(*MARKERS["M1_proinflammatory"]),
    "repair": GeneList(
        tuple(gene for gene in MARKERS["M2_prorepair"].genes if gene not in MISLEADING),
        MARKERS["M2_prorepair"].source + "; without Chil3, which marks inflammatory monocytes",
    ),
}


class Response(NamedTuple):
    """A set that a wound moves.

    Attributes:
        marker_set: name of the set in `MARKERS`, which has its source.
        families: families of cell types it holds in (`cell_types.FAMILIES`), or `ANY`.
        sign: +1 where the wound raises the genes, -1 where it lowers them.
    """

    marker_set: str
    families: tuple[str, ...]
    sign: int


RESPONSES: tuple[Response, ...] = (
    Response("burn_cytokines_fig1g", (ANY,), 1),
    Response("keratinocyte_wound_activated", ("keratinocyte",), 1),
    Response("keratinocyte_migration", ("keratinocyte",), 1),
    Response("celltype:Keratinocyte (suprabasal)", ("keratinocyte",), -1),
    Response("fibroblast_inflammatory_early", ("fibroblast",), 1),
    Response("fibroblast_activated_myofibroblast", ("fibroblast", "pericyte"), 1),
    Response("fibroblast_wound_subset", ("fibroblast",), 1),
    Response("neutrophil_activation", ("neutrophil",), 1),
    Response("M1_proinflammatory", ("macrophage", "monocyte", "dendritic"), 1),
    Response("M2_prorepair", ("macrophage",), 1),
    Response("angiogenesis", ("endothelial",), 1),
    Response("proliferation", ("keratinocyte", "fibroblast", "endothelial", "muscle"), 1),
)


class SignedGene(NamedTuple):
    """A registered wound marker.

    Attributes:
        gene: mouse symbol.
        families: families of cell types it holds in, or `ANY`.
        sign: +1 up, -1 down.
        source: where the set was published.
    """

    gene: str
    families: tuple[str, ...]
    sign: int
    source: str


WOUND_MARKERS: tuple[SignedGene, ...] = tuple(
    SignedGene(gene, response.families, response.sign, MARKERS[response.marker_set].source)
    for response in RESPONSES
    for gene in MARKERS[response.marker_set].genes
    if gene not in MISLEADING
)


def signs_in(families: Iterable[str]) -> dict[str, int]:
    """Registered gene -> sign in cells of these families; a gene of `ANY` holds in all cells."""
    own = {*families, ANY}
    return {marker.gene: marker.sign for marker in WOUND_MARKERS if own & set(marker.families)}


def find_genes(wanted: Iterable[str], genes: Sequence[str]) -> dict[str, int]:
    """Where the genes of a list stand among the measured ones.

    A symbol that is there as written is taken; else the one that differs in case alone. Human
    symbols are found in this way: most orthologues carry the mouse symbol in capitals. Those
    that do not (Retnla, Ear2, Ly6c2) have no counterpart of that name, and are not found.

    Args:
        wanted: mouse symbols.
        genes: symbols of the measured genes, in their order.

    Returns:
        symbol of the list -> position, for those that are found, in the order of the list.
    """
    exact: dict[str, int] = {}
    folded: dict[str, int] = {}
    for position, gene in enumerate(map(str, genes)):
        exact.setdefault(gene, position)
        folded.setdefault(gene.upper(), position)
    places = {gene: exact.get(gene, folded.get(gene.upper())) for gene in wanted}
    return {gene: place for gene, place in places.items() if place is not None}


def require_predictions(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    genes: Sequence[str] | None = None,
) -> None:
    """Refuses predictions that do not belong to the strata, or gene names that do not.

    Raises:
        UserError: a prediction is missing, has another shape than the stratum's control cells or
            values that are not finite; or the genes are not one name a column.
    """
    if len(strata) != len(predictions):
        raise UserError(
            f"{len(predictions)} predictions for {len(strata)} strata; expected one for each, in "
            "the order of the strata."
        )
    for stratum, predicted in zip(strata, predictions, strict=True):
        if predicted.shape != stratum.control.shape:
            raise UserError(
                f"stratum {stratum.key}: prediction of shape {predicted.shape}; expected "
                f"{stratum.control.shape}, one row for each control cell."
            )
        if not np.isfinite(predicted).all():
            raise UserError(
                f"stratum {stratum.key}: the prediction holds NaN or infinity; expected finite "
                "values. Take a checkpoint from before training diverged."
            )
        if genes is not None and predicted.shape[1] != len(genes):
            raise UserError(
                f"stratum {stratum.key}: {len(genes)} gene names for {predicted.shape[1]} columns; "
                "expected one name for each column."
            )


def not_applicable(reason: str) -> dict:
    """The result of a criterion that says nothing about these data."""
    return {"applicable": False, "reason": reason}


def rows_by_replicate(replicates: np.ndarray | None, fewest: int) -> dict[str, np.ndarray]:
    """Rows of each replicate that has at least `fewest` cells, by name; unknown ones none."""
    if replicates is None:
        return {}
    names = replicates.astype(str)
    rows = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return {name: r for name, r in rows.items() if name != NO_LABEL and len(r) >= fewest}
