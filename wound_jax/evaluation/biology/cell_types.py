"""Which labels of a data set mean which family of cell types.

A label is cut into words at everything that is no letter or digit, plural or not, in any case:

    "CD14+ Monocytes" -> cd14, monocytes -> monocyte;   "Mono/Mac" -> monocyte and macrophage

A label belongs to a family when one of its words is a name of that family. Where a data set's
labels read otherwise, its labels are given by hand.
"""

import re
from collections.abc import Collection, Mapping

from wound_jax.errors import unknown_name

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
