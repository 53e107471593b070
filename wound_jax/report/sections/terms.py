"""What the words on the page mean."""

from collections.abc import Mapping
from dataclasses import dataclass

from wound_jax.report.blocks import Section
from wound_jax.report.glossary import METRIC_TERMS, Term, method_term, metric_term
from wound_jax.report.load import Study
from wound_jax.report.markup import Html, join, tag
from wound_jax.report.scores import metrics_of


@dataclass(frozen=True)
class Definitions:
    """A list of names with their meanings.

    Attributes:
        title: heading of the list.
        terms: key in the files -> term.
    """

    title: str
    terms: Mapping[str, Term]

    def html(self) -> Html:
        """The list; each entry can be linked to as `#term-KEY`."""
        entries = join(
            join([
                tag("dt", term.name, " ", tag("code", key), id=f"term-{key}"),
                tag("dd", term.meaning),
            ])
            for key, term in self.terms.items()
        )  # fmt: skip
        return join([tag("h3", self.title), tag("dl", entries, class_="terms")])


def terms_section(study: Study) -> Section:
    """Metrics and methods of this page in words."""
    metrics: dict[str, None] = dict.fromkeys(metrics_of(study))
    methods: dict[str, None] = dict.fromkeys(["model", "ceiling"])
    for run in study.runs:
        metrics |= dict.fromkeys(run.part("summary").get("model", {}))
        metrics |= dict.fromkeys(key for key in run.part("mixing") if key in METRIC_TERMS)
        methods |= dict.fromkeys(run.part("summary").get("baselines", {}))
    return Section(
        "terms",
        "What the words mean",
        [
            Definitions("Metrics", {key: metric_term(key) for key in metrics}),
            Definitions("Methods", {key: method_term(key) for key in methods}),
        ],
    )
