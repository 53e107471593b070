"""Record of the runs: training, parameters, settings, provenance, and what the words mean."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from wound_jax.report.blocks import (
    Block,
    Column,
    Definitions,
    Figure,
    Fold,
    Note,
    Section,
    Table,
    absent,
    variant_column,
)
from wound_jax.report.figures.curves import Bundle, draw_curves, read_curve, series_legend
from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.scores import finite, metrics_of
from wound_jax.report.words import METRIC_TERMS, method_meaning, method_name, metric_term

_PANELS = {
    "train/loss": "Training loss",
    "val/loss": "Validation loss",
    "train/grad_norm": "Gradient norm, before the clip",
}
# Key of the results -> (heading, decimals, meaning).
_FIGURES = {
    "untrained_loss": ("untrained loss", 4, "validation loss before the first step"),
    "best_loss": ("best loss", 4, "lowest validation loss"),
    "identity_loss": ("identity loss", 4, "validation loss of the identity"),
    "improvement": ("improvement", 3, "(untrained - best) / untrained; easy to get"),
    "improvement_on_identity": (
        "improvement on the identity",
        3,
        "(identity loss - best loss) / identity loss; this one decides",
    ),
    "loss_cv": (
        "loss variation",
        4,
        "standard deviation over mean of the training loss in the last tenth of the steps, its "
        "trend removed",
    ),
    "loss_variance": ("loss variance", 4, "the same as a raw variance, in the loss's own unit"),
    "spikes_per_epoch": (
        "spikes per epoch",
        2,
        "steps whose gradient norm exceeds the median of the 200 before by 6 median deviations",
    ),
    "spikes_per_1000": ("spikes per 1,000 steps", 2, "the same for each 1,000 steps"),
    "clip_rate": ("clipped steps", 3, "share of steps whose gradient was clipped"),
}
# Keys that name a run and decide nothing about a variant.
_IDENTITY = {"name", "run_dir", "seed"}
_GROUPS = {
    "frozen": "frozen",
    "backbone": "backbone",
    "head": "encoders and heads",
    "lora_a": "adapters, A",
    "lora_b": "adapters, B",
    "mhc": "hyper-connections",
    "no_decay": "norms and biases",
}


def training_section(study: Study) -> Section:
    """Curves of all variants, and the figures of their training."""
    id, title = "training", "Training"
    bundles = {key: _bundles(study, key) for key in _PANELS}
    drawn = {key: found for key, found in bundles.items() if any(b.curves for b in found)}
    if not drawn:
        return absent(id, title, "the runs have no metrics.jsonl with losses.")
    blocks: list[Block] = [
        Figure(
            panels=[draw_curves(found, _PANELS[key]) for key, found in drawn.items()],
            look="The validation loss should fall with the training loss and level off; where it "
            "rises while the training loss still falls, the model memorises. The gradient norm "
            "should show no lasting jumps. " + _lines(study),
            legend=series_legend([v.name for v in study.variants]),
        )
    ]
    losses = {str(run.config.get("loss", {}).get("name")) for run in study.runs}
    if len(losses) > 1:
        names = ", ".join(sorted(losses))
        blocks.append(
            Note(f"The variants minimise different losses ({names}): compare shapes, not heights.")
        )
    blocks.append(_figures(study))
    return Section(id, title, blocks)


def _bundles(study: Study, key: str) -> list[Bundle]:
    """The curves of each variant; none of a variant that did not log the quantity."""
    found = []
    for variant in study.variants:
        curves = (read_curve(run.records, key) for run in variant.runs)
        found.append(Bundle(variant.name, [curve for curve in curves if curve is not None]))
    return found


def _lines(study: Study) -> str:
    """What the lines are, with n."""
    n = max(len(variant.runs) for variant in study.variants)
    if n == 1:
        return "The bold line is a running median of the faint one, n = 1 seed."
    return f"Faint lines are single seeds (n up to {n}), bold ones running medians of their mean."


def _figures(study: Study) -> Block:
    """The figures of training, averaged over the seeds."""
    present = [
        key
        for key in _FIGURES
        if any(run.part("training").get(key) is not None for run in study.runs)
    ]
    if not present:
        return Note("The figures of training are missing from these evaluations.", "absent")
    columns: Sequence[Column] = [
        variant_column(study),
        Column("seeds", "seeds", "number"),
        *(
            Column(key, _FIGURES[key][0], "number", _FIGURES[key][2], _FIGURES[key][1])
            for key in present
        ),
    ]
    rows = []
    for variant in study.variants:
        row: dict = {"variant": variant.name, "seeds": len(variant.runs)}
        for key in present:
            values = finite(run.part("training").get(key) for run in variant.runs)
            row[key] = float(np.mean(values)) if values.size else None
        rows.append(row)
    look = (
        "Improvement over the identity loss is the figure that decides; smooth curves alone are "
        "no evidence of quality. Means over seeds."
    )
    return Table("training", look, columns, rows)


def parameters_section(study: Study) -> Section:
    """How many parameters train, by group."""
    id, title = "parameters", "Parameters"
    counted = [v for v in study.variants if v.shown.parameters.get("labels")]
    if not counted:
        return absent(id, title, "the runs have no parameters.json.")
    columns = [
        Column("variant", "variant"),
        Column("trainable", "trainable", "number"),
        Column("frozen", "frozen", "number"),
        Column("total", "all", "number"),
        Column("share_of_backbone", "trainable share of the backbone", "number", None, 4),
        Column("share", "trainable share of all", "number", None, 4),
    ]
    look = (
        "Frozen parameters keep their initial values; only the others learn. The share of the "
        "backbone leaves out the encoders and heads around it."
    )
    table = Table("parameters", look, columns, [_parameter_row(variant) for variant in counted])
    return Section(id, title, [table, Fold("By group", [_groups(study, counted)])])


def settings_section(study: Study) -> Section:
    """What differs between the variants, and the whole config of each."""
    id, title = "settings", "Settings"
    configs = [dict(flatten(variant.shown.config)) for variant in study.variants]
    if not any(configs):
        return absent(id, title, "the runs have no config.yaml.")
    keys = list(dict.fromkeys(key for config in configs for key in config))
    blocks: list[Block] = []
    if len(configs) > 1:
        differing = [
            key
            for key in keys
            if key not in _IDENTITY and len({config.get(key, "absent") for config in configs}) > 1
        ]
        look = "Only what is listed here can explain a difference between the variants."
        table = _settings("settings_differing", look, differing, configs, study)
        same = Note("The variants have the same settings.")
        blocks.append(table if differing else same)
    look = "The resolved config of each variant, defaults included."
    blocks.append(Fold("All settings", [_settings("settings", look, keys, configs, study)]))
    return Section(id, title, blocks)


def provenance_section(study: Study) -> Section:
    """Versions, seed, data, commit, device and time of every run."""
    id, title = "provenance", "Provenance"
    runs = [(variant, run) for variant in study.variants for run in variant.runs]
    if not any(run.provenance for _, run in runs):
        return absent(id, title, "the runs have no provenance.json.")
    columns = [
        variant_column(study),
        Column("seed", "seed"),
        Column("data", "data"),
        Column("fingerprint", "data fingerprint", "code"),
        Column("commit", "commit of the code", "code", "+ marks files that differ from it"),
        Column("devices", "device"),
        Column("started", "started (UTC)"),
        Column("training_seconds", "training, s", "number", "without reading and evaluation", 0),
        Column("minutes", "took, min", "number", "from start to evaluation", 1),
        Column("resumed", "resumed", "number"),
        Column("folder", "folder", "code"),
        Column("command", "command", "code"),
    ]
    rows = [_provenance(variant.name, run) for variant, run in runs]
    versions = _versions(study)
    look = "Figures can be compared where data fingerprint, commit and versions agree."
    return Section(
        id,
        title,
        [Table("provenance", look, columns, rows), Fold("Versions of packages", [versions])],
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with their values as text."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _parameter_row(variant: Variant) -> dict:
    """Counts of one variant."""
    counts = variant.shown.parameters
    trainable, total = (sum(counts[name].values()) for name in ("trainable", "total"))
    backbone = counts["trainable"]["backbone"] / max(counts["total"]["backbone"], 1)
    return {
        "variant": variant.name,
        "trainable": trainable,
        "frozen": total - trainable,
        "total": total,
        "share_of_backbone": backbone,
        "share": trainable / max(total, 1),
    }


def _groups(study: Study, variants: list[Variant]) -> Table:
    """Counts by group of parameters."""
    rows = [
        {
            "group": _GROUPS.get(label) or label.replace("_", " "),
            "variant": variant.name,
            "trains": "no" if label == "frozen" else "yes",
            **count,
            "all": count["backbone"] + count["heads"],
        }
        for variant in variants
        for label, count in variant.shown.parameters["labels"].items()
    ]
    columns = [
        Column("group", "group"),
        variant_column(study),
        Column("trains", "trains"),
        Column("backbone", "backbone", "number"),
        Column("heads", "around it", "number", "encoders, heads and everything but the backbone"),
        Column("all", "all", "number"),
    ]
    return Table("parameter_groups", "Each parameter is in one group.", columns, rows)


def _settings(
    name: str, look: str, keys: list[str], configs: list[dict[str, str]], study: Study
) -> Table:
    """A line a key, a column a variant."""
    columns = [Column("setting", "setting", "code")]
    columns += [Column(str(i), v.name) for i, v in enumerate(study.variants)]
    rows = [
        {"setting": key, **{str(i): config.get(key) for i, config in enumerate(configs)}}
        for key in keys
    ]
    return Table(name, look, columns, rows)


def _provenance(name: str, run: RunResult) -> dict:
    record = run.provenance
    return {
        "variant": name,
        "seed": run.seed,
        "data": record.get("data"),
        "fingerprint": record.get("data_fingerprint"),
        "commit": record.get("commit"),
        "devices": ", ".join(record.get("devices") or ()) or None,
        "started": str(record["started"])[:19].replace("T", " ") if record.get("started") else None,
        "training_seconds": record.get("training_seconds"),
        "minutes": _minutes(record),
        "resumed": len(record.get("resumed") or ()),
        "folder": str(run.folder),
        "command": record.get("command"),
    }


def _minutes(record: Mapping[str, Any]) -> float | None:
    """From the start to the end of the evaluation, rests of a resumed run included."""
    if not record.get("started") or not record.get("finished"):
        return None
    started, finished = (datetime.fromisoformat(str(record[k])) for k in ("started", "finished"))
    return (finished - started).total_seconds() / 60


def _versions(study: Study) -> Table:
    """A line a package; more than one version where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in study.runs:
        packages = {
            "python": run.provenance.get("python"),
            **(run.provenance.get("versions") or {}),
        }
        for package, version in packages.items():
            found.setdefault(package, {})[str(version or "not installed")] = None
    rows = [{"package": name, "version": ", ".join(versions)} for name, versions in found.items()]
    columns = [Column("package", "package"), Column("version", "version")]
    return Table("versions", "More than one version: the runs differ.", columns, rows)


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
            Definitions("Metrics", [_metric(key) for key in metrics]),
            Definitions("Methods", [(n, n, method_meaning(n)) for n in map(method_name, methods)]),
        ],
    )


def _metric(key: str) -> tuple[str, str, str]:
    term = metric_term(key)
    return key, term.name, term.meaning
