"""What was run: parameters, provenance, and the settings in which variants differ."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from wound_jax.report.blocks import Block, Column, Fold, Note, Section, Table, absent
from wound_jax.report.load import RunResult, Study, Variant
from wound_jax.report.sections.common import variant_column

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
