"""The frozen gene lists of the biological criteria, each with its source and its sign.

Symbols and sources stand in one place, `MARKERS`; here is which sets are judged, in which cell
types, and which way a wound moves them. Lists are frozen before a model is scored: a list chosen
after looking at predictions proves nothing.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wound_jax.data.synthetic.markers import MARKERS

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
