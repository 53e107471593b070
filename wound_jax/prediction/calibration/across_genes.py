"""The delta of a gene in an unknown cell type, learnt across genes.

Few cell types are known, but each shows thousands of genes. What a gene does in a type that was
never treated is therefore learnt from what genes do in each known type when that type is taken as
unknown: one regression for all genes and types,

    delta_gs = k_gs + r_s f(x_gs),     r_s = rms over g of k_gs,

with k_s the mean of the other types' deltas, weighted by likeness of the controls as in
`kernel_mean_delta`, and f extremely randomised trees (Geurts, Ernst and Wehenkel 2006, Mach. Learn.
63, 3-42). The features x_gs are what is known of gene g before type s is treated: its expression in
the controls of s and of the other types, its deltas there, and its covariance, over the control
cells of s, with the mean delta of the others. The last is the fluctuation-response relation (Kubo
1966, Rep. Prog. Phys. 29, 255-284): to first order a gene answers a force as it fluctuates with
what the force acts on. Deltas are in units of r_s, so that a type that answers strongly can be
learnt from types that answer weakly.

The linear rules (`stacked_linear`) know better how strongly a type answers, these trees which genes
do. How much of each to take is what has the least squared error on training types left out.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from wound_jax.baselines.profiles import Examples, Novelty, Profiles
from wound_jax.baselines.stacked_linear import StackedLinear, weights_of_least_error
from wound_jax.baselines.training import Learnt, Training
from wound_jax.data.strata import Stratum

# Cell types that have to be known: each is learnt from the others, which are a type fewer.
MIN_TYPES = 4
# Strata of other types that make a timepoint a context of its own.
_MIN_AT_TIMEPOINT = 3
# Bandwidths of likeness, in root mean squared distances between the strata; the second weighs k_s.
_BANDWIDTHS = (0.25, 0.5, 1.0)
_NEAREST = 3
# Forests that are grown to measure the weight, at most: one a type left out and perturbation, each
# some 0.3 s. Of many perturbations a sample tells as much.
_MAX_FORESTS = 60
# Examples (a gene in a stratum) that the trees are grown on, at most.
_MAX_EXAMPLES = 20_000
# Examples up to which one thread grows them as fast as several: 0.4 s of 1,000 on two cores.
_FEW_ROWS = 4_000
_TREES = {
    "n_estimators": 200,
    "min_samples_leaf": 10,
    "max_features": 0.5,
    "random_state": 0,
}

PerGene = Float[np.ndarray, " genes"]
Features = Float[np.ndarray, "genes features"]


@dataclass(frozen=True, eq=False)
class AcrossGenes:
    """What the training strata teach about genes in a cell type that is not among them.

    Attributes:
        training: means of the training strata.
        fluctuations: float64 [strata, genes], for each stratum the covariance of its control cells
            with the delta of the other types; see `fluctuation`.
        weight: its share beside the linear rules in what is expected of an unknown type, 0 to 1.
    """

    training: Learnt
    fluctuations: Float[np.ndarray, "strata genes"]
    weight: float
    _trees: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def unweighed(cls, training: Learnt, strata: Sequence[Stratum]) -> "AcrossGenes":
        """What strata teach, without the question how far to trust it: its weight is 0.

        Args:
            training: means of the strata.
            strata: the training strata that have treated cells.
        """
        return cls(training, _fluctuations(training, strata), 0.0)

    @classmethod
    def of(cls, rule: StackedLinear, strata: Sequence[Stratum]) -> "AcrossGenes":
        """What strata teach, and how far to trust it.

        Args:
            rule: the linear rules, fitted on the strata.
            strata: the training strata that have treated cells.
        """
        learnt = cls.unweighed(rule.training, strata)
        if max(learnt._n_types.values()) < MIN_TYPES:
            return learnt
        types = dict.fromkeys(stratum.cell_type for stratum in strata)
        judges = learnt._judges(len(types))
        errors = [
            pair for name in types for pair in _errors(strata, name, judges, rule.non_negative)
        ]
        _, weight = weights_of_least_error(np.stack(errors, axis=1))
        return replace(learnt, weight=float(weight))

    def applies(self, stratum: Stratum) -> bool:
        """Whether the type of a stratum is unknown, and enough others are known."""
        if self.training.novelty_of(stratum) is not Novelty.TYPE:
            return False
        return self._n_types[stratum.perturbation] >= MIN_TYPES

    def delta(self, stratum: Stratum) -> PerGene:
        """The expected delta of a stratum to which this applies, float64 [genes]."""
        examples, wanted = self.training.examples, self.training.profiles([stratum])
        others = _context(examples.profiles, wanted)
        own = fluctuation(self.training, examples.deltas[others], stratum)
        features, base, scale = self._features(wanted, own, others)
        return base + scale * self._trees_of(stratum.perturbation).predict(features)

    @cached_property
    def _n_types(self) -> dict[str, int]:
        of = self.training.examples.profiles
        return {p: len(set(of.cell_type[of.perturbation == p])) for p in set(of.perturbation)}

    def _judges(self, n_left_out: int) -> set[str]:
        """The perturbations that the weight is measured on: of enough types, a sample of many."""
        known = sorted(p for p, n in self._n_types.items() if n >= MIN_TYPES)
        n = min(len(known), max(1, _MAX_FORESTS // n_left_out))
        return set(np.random.default_rng(0).choice(known, n, replace=False).tolist())

    def _trees_of(self, perturbation: str) -> Any:
        """The trees of a perturbation, grown when they are first asked for."""
        if perturbation not in self._trees:
            # Imported where it is needed: most predictions are of known types and start without.
            from sklearn.ensemble import ExtraTreesRegressor

            features, wanted = self._examples(perturbation)
            jobs = -1 if len(wanted) > _FEW_ROWS else 1
            grown = ExtraTreesRegressor(**_TREES, n_jobs=jobs).fit(features, wanted)
            # Threads that predict add up in any order, so that last digits would come and go.
            self._trees[perturbation] = grown.set_params(n_jobs=1)
        return self._trees[perturbation]

    def _examples(self, perturbation: str) -> tuple[Features, PerGene]:
        """Features and scaled deltas of the genes of every stratum, its type taken as unknown."""
        examples: Examples = self.training.examples
        rows = np.flatnonzero(examples.profiles.perturbation == perturbation)
        n_genes = examples.deltas.shape[1]
        rng = np.random.default_rng(0)
        features, wanted = [], []
        for row in map(int, rows):
            profile = examples.profiles.take([row])
            others = _context(examples.profiles, profile)
            x, base, scale = self._features(profile, self.fluctuations[row], others)
            kept = np.arange(n_genes)
            if n_genes * len(rows) > _MAX_EXAMPLES:
                kept = rng.choice(n_genes, max(1, _MAX_EXAMPLES // len(rows)), replace=False)
            features.append(x[kept])
            wanted.append((examples.deltas[row] - base)[kept] / scale)
        return np.concatenate(features), np.concatenate(wanted)

    def _features(
        self, wanted: Profiles, own: PerGene, others: Bool[np.ndarray, " strata"]
    ) -> tuple[Features, PerGene, float]:
        """What is known of each gene in one stratum, the expected delta k, and its size r."""
        known = self.training.examples.take(others)
        control, deltas = known.profiles.control, known.deltas
        likeness = _Likeness.of(known.profiles, wanted)
        means = [likeness.weights(bandwidth) @ deltas for bandwidth in _BANDWIDTHS]
        base, weights = means[1], likeness.weights(_BANDWIDTHS[1])
        scale = float(np.sqrt(np.square(base).mean())) or 1.0
        nearest = likeness.nearest(_NEAREST)
        (here,) = wanted.control
        of_deltas = [
            *means,
            *deltas[nearest],
            deltas.mean(axis=0),
            np.median(deltas, axis=0),
            deltas.std(axis=0),
            deltas.min(axis=0),
            deltas.max(axis=0),
            weights @ (control + deltas) - here,
        ]
        of_controls = [
            here,
            control.mean(axis=0),
            here - control.mean(axis=0),
            control[nearest[0]],
            here - weights @ control,
            control.max(axis=0),
            control.std(axis=0),
        ]
        fluctuating = self.fluctuations[others].mean(axis=0)
        of_fluctuations = [own, fluctuating, own - fluctuating]
        columns = [*(delta / scale for delta in of_deltas), *of_controls, *of_fluctuations]
        return np.stack(columns, axis=1).astype(np.float32), base, scale


@dataclass(frozen=True, eq=False)
class _Likeness:
    """How like the controls of a stratum are to those of others.

    Attributes:
        squared: [strata], squared distances on the training components.
        unit: the mean squared distance between two of the others.
    """

    squared: Float[np.ndarray, " strata"]
    unit: float

    @classmethod
    def of(cls, others: Profiles, wanted: Profiles) -> "_Likeness":
        """From a stratum to others."""
        among = np.square(others.scores[:, None] - others.scores[None]).sum(axis=-1)
        pairs = len(others) * (len(others) - 1)
        squared = np.square(others.scores - wanted.scores).sum(axis=1)
        # Where all controls coincide any unit will do.
        return cls(squared, float(among.sum()) / max(pairs, 1) or 1.0)

    def weights(self, bandwidth: float) -> Float[np.ndarray, " strata"]:
        """Gaussian weights of sum 1."""
        raised = np.exp((self.squared.min() - self.squared) / (2.0 * bandwidth**2 * self.unit))
        return raised / raised.sum()

    def nearest(self, n: int) -> np.ndarray:
        """Which are the n nearest, the last of them again where there are fewer."""
        order = np.argsort(self.squared, kind="stable")
        return order[np.minimum(np.arange(n), len(order) - 1)]


def _fluctuations(training: Learnt, strata: Sequence[Stratum]) -> Float[np.ndarray, "strata genes"]:
    """The fluctuation of each training stratum along the delta of the other types."""
    examples = training.examples
    assert len(strata) == len(examples), "one stratum an example"
    rows = np.zeros_like(examples.deltas)
    for row, stratum in enumerate(strata):
        others = _context(examples.profiles, examples.profiles.take([row]))
        if others.any():
            rows[row] = fluctuation(training, examples.deltas[others], stratum)
    return rows


def _errors(
    strata: Sequence[Stratum], left_out: str, judges: Container[str], non_negative: bool
) -> Iterator[Float[np.ndarray, "2 genes"]]:
    """Expected minus true deltas of a type left out: of the linear rules, and across genes.

    Args:
        strata: the training strata.
        left_out: the type.
        judges: the perturbations that are looked at.
        non_negative: as for `StackedLinear`.
    """
    training = Training.of([stratum for stratum in strata if stratum.cell_type != left_out])
    rule = StackedLinear.fit(training, non_negative, [Novelty.TYPE])
    genes = AcrossGenes.unweighed(rule.training, training)
    for stratum in strata:
        n_known = genes._n_types.get(stratum.perturbation, 0)
        of_type = stratum.cell_type == left_out and stratum.perturbation in judges
        if of_type and n_known >= MIN_TYPES - 1:
            expected = np.stack([rule.delta(stratum), genes.delta(stratum)])
            yield expected - stratum.mean_delta


def fluctuation(
    training: Learnt, deltas: Float[np.ndarray, "others genes"], stratum: Stratum
) -> PerGene:
    """Covariance of each gene, over the control cells of a stratum, with a direction of delta.

    Args:
        training: for the components, on which the direction is taken.
        deltas: of other strata; their mean is the direction, of length 1.
        stratum: its treated cells are not looked at.

    Returns:
        float64 [genes], in units of expression.
    """
    direction = training.components.axes @ deltas.mean(axis=0)
    direction /= np.linalg.norm(direction) or 1.0
    cells = stratum.control - stratum.control_mean
    along = cells @ (direction @ training.components.axes)
    return np.asarray(along @ cells, np.float64) / len(cells)


def _context(known: Profiles, wanted: Profiles) -> Bool[np.ndarray, " strata"]:
    """The strata of other types under the perturbation of one; of its timepoint, if they suffice.

    Args:
        known: the training strata.
        wanted: one stratum.
    """
    others = (known.perturbation == wanted.perturbation[0]) & (
        known.cell_type != wanted.cell_type[0]
    )
    now = others & np.equal(known.timepoint, wanted.timepoint[0]).astype(bool)
    return now if now.sum() >= _MIN_AT_TIMEPOINT else others
