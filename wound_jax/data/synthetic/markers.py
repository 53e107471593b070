"""Mouse marker genes of the synthetic wound set, each set with where it was published.

A set is a program of the simulation: identity sets raise a type above the others, response sets
carry the burn effect with a known sign (`wound_jax.data.synthetic.programs`). Symbols are MGI
symbols; where the source is human, the mouse orthologue stands.
"""

from typing import NamedTuple

SORKIN = "Sorkin 2020, Nat Commun 11:722 (mouse burn and tenotomy, CC-BY 4.0)"
LIU = "Liu 2025, Cell Stem Cell 32:479 (human acute wounds)"
SCI = "JaeLeeLab/sci_scRNAseq (mouse spinal cord injury, Milich 2021)"


class MarkerSet(NamedTuple):
    """Genes that belong together, and the source that says so."""

    genes: tuple[str, ...]
    source: str


def _set(genes: str, source: str) -> MarkerSet:
    return MarkerSet(tuple(genes.split()), source)


MARKERS: dict[str, MarkerSet] = {
    "M1_proinflammatory": _set(
        (
            "Il1a Il1b Il6 Il12a Il12b Il23a Il27 Tnf Csf3 Csf2 Nfkbiz Ccl1 Cxcl13 Ccl11 "
            "Cxcl2 Tnfaip3 Socs3 Peli1 Nos2 Marco"
        ),
        "Murray 2017, Annu Rev Physiol 79:541, Table 2 (as in JaeLeeLab/sci_scRNAseq)",
    ),
    "M2_prorepair": _set(
        (
            "Retnla Clec10a Ccl17 Ccl24 Irf4 Chil3 Mrc1 Arg1 Rnase2a Ear2 Ccl8 Pdcd1lg2 "
            "Socs2 Cdh1 Ppard Pparg Ccl22"
        ),
        "Murray 2017, Annu Rev Physiol 79:541, Table 2 (as in JaeLeeLab/sci_scRNAseq)",
    ),
    "M1_extra": _set(
        "Cd86 Cd80 Ly6c2 Ccr2 Tlr2 Tlr4",
        (
            "Cd86, Cd80, Tlr2, Tlr4: omicsonline 2155-9899-6-313, Table 1; Ly6c2, Ccr2: "
            "Brancato and Albina 2011, Am J Pathol 178:19, Fig. 1"
        ),
    ),
    "M2_extra": _set(
        "Cd163 Il10 Il1rn Timp1 Pdgfb Cx3cr1 Tgfb1 Vegfa",
        (
            "omicsonline 2155-9899-6-313, Table 1; Cx3cr1, Tgfb1, Vegfa: Brancato and Albina "
            "2011, Fig. 1, and PMC8097165, Table 2"
        ),
    ),
    "burn_cytokines_fig1g": _set(
        "Cxcl1 Cxcl2 Ccl2 Ccl3 Ccl4 Il1b Il6 Tnf Tgfb1 Tgfb2 Tgfb3 Cxcl5",
        "Sorkin 2020, Nat Commun 11:722, Fig. 1g",
    ),
    "burn_receptors_fig1h": _set(
        "Cxcr2 Csf1r Csf3r Tgfbr1 Tgfbr3 Il1r1 Il6ra Lifr Tgfbr2",
        "Sorkin 2020, Nat Commun 11:722, Fig. 1h",
    ),
    "keratinocyte_migration": _set(
        "Has2 Krt16 Krt6a Krt6b Fgf7 Mapre2 Iqsec1 Fgf10 Adam9 Mmp9",
        LIU + " (GO:0051549 and literature), mouse orthologues",
    ),
    "keratinocyte_wound_activated": _set(
        "Krt6a Krt6b Krt16 Krt17", LIU + ", KRT6A+ wound cells, mouse orthologues"
    ),
    "proliferation": _set(
        (
            "Zwint E2f1 Fen1 Foxm1 H2az1 Hmgb2 Mcm2 Mcm3 Mcm4 Mcm5 Mcm6 Mki67 Mybl2 Pcna "
            "Plk1 Ccnd1 Aurka Bub1 Top2a Tyms Dek Ccnb1 Ccne1"
        ),
        LIU + " (score of Science 374:abe6474), mouse orthologues",
    ),
    "fibroblast_activated_myofibroblast": _set(
        "Acta2 Col1a1 Col3a1 Postn Col12a1 Tnn Lrrc15 Thbs2 Fn1",
        SORKIN + ", cluster 1; Acta2: smooth muscle and pericytes there",
    ),
    "fibroblast_wound_subset": _set(
        "Sfrp1 Sfrp2 Sfrp4 Ebf1 Prrx1 Maged1",
        "Gharbia 2023, Sci Rep 13:886, day-4 wound fibroblasts, cluster 3",
    ),
    "fibroblast_inflammatory_early": _set(
        "Has1 Cxcl1 Tnfaip6 Hk2 Gfpt2 Ccl7 Ptx3 Mt2 C3 Ptgs2 Ccl2 Il6", SORKIN + ", cluster 9"
    ),
    "angiogenesis": _set(
        "Vegfa Kdr Pecam1 Flt1 Cdh5 Angpt2 Apln Aplnr Esm1",
        SCI + "; Cdh5, Aplnr: " + SORKIN + ", cluster 4; Vegfa, Angpt2, Esm1: textbook",
    ),
    "neutrophil_activation": _set(
        "S100a8 S100a9 Retnlg G0s2 Lcn2 Wfdc21 Mmp9 Il1r2 Cxcr2 Mxd1",
        SCI + ", top neutrophil genes after injury",
    ),
    "celltype:Keratinocyte (basal)": _set(
        "Krt5 Krt14 Col17a1 Itga6", LIU + ", mouse orthologues; Col17a1: textbook"
    ),
    "celltype:Keratinocyte (suprabasal)": _set("Krt1 Krt10 Ivl Flg", LIU + ", mouse orthologues"),
    "celltype:Fibroblast": _set("Col1a1 Col1a2 Dcn Lum Postn Col6a1 Dpt Pdgfra", SCI + "; " + LIU),
    "celltype:Neutrophil": _set(
        "S100a8 S100a9 Mmp9 Ly6g Cd177 Ltf Retnlg", SCI + "; Retnlg: GSM6190913, mouse skin wound"
    ),
    "celltype:Macrophage": _set(
        "Ms4a7 Pf4 Trem2 Folr2 Mrc1 C1qc C3ar1 Apoe Adgre1", SORKIN + ", cluster 0; " + SCI
    ),
    "celltype:Myocyte/satellite (deep wound)": _set(
        "Myf5 Chodl Des Ncam1", SORKIN + ", cluster 10"
    ),
    "celltype:Endothelial (vascular)": _set(
        "Pecam1 Kdr Flt1 Cdh5 Tie1 Emcn Aplnr",
        SCI + "; " + SORKIN + ", cluster 4; Tie1: GSM6190913",
    ),
    "celltype:T/NK cell": _set(
        "Cd3d Cd3e Cd3g Nkg7 Il2rb Lck Klrd1",
        SORKIN + ", immune markers and cluster 14; Cd3g: GSM6190913",
    ),
    "celltype:Dendritic cell": _set(
        "Cd209a Flt3 H2-DMb2 Klrd1 H2-Ab1 Cd74 Ccl17", SCI + "; " + SORKIN + ", cluster 7"
    ),
    "celltype:Pericyte/SMC": _set(
        "Rgs5 Kcnj8 Abcc9 Higd1b Notch3 Acta2 Myh11",
        SCI + "; " + SORKIN + ", cluster 6; Rgs5: GSM6190913",
    ),
    "celltype:Monocyte": _set(
        "Ly6c2 Ccr2 Plac8 F10 Chil3 Ifitm6 Fn1", SCI + "; " + SORKIN + ", cluster 12"
    ),
    "celltype:Schwann": _set("Plp1 Mpz Sox10 Mal Cldn19", SORKIN + ", cluster 13; SOX10: " + LIU),
}

# Short type name -> the sets that mark it.
IDENTITY: dict[str, tuple[str, ...]] = {
    "Ker": ("celltype:Keratinocyte (basal)", "celltype:Keratinocyte (suprabasal)"),
    "Fib": ("celltype:Fibroblast",),
    "Neu": ("celltype:Neutrophil",),
    "Mac": ("celltype:Macrophage",),
    "Mus": ("celltype:Myocyte/satellite (deep wound)",),
    "Endo": ("celltype:Endothelial (vascular)",),
    "T": ("celltype:T/NK cell",),
    "DC": ("celltype:Dendritic cell",),
    "Peri": ("celltype:Pericyte/SMC",),
    "Mono": ("celltype:Monocyte",),
    "Sch": ("celltype:Schwann",),
}

TYPES: tuple[str, ...] = tuple(IDENTITY)


def genes_of(*names: str) -> tuple[str, ...]:
    """The genes of the named sets, each once, in the order of the sets."""
    return tuple(dict.fromkeys(gene for name in names for gene in MARKERS[name].genes))
