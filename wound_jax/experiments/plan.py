"""Plan of an experiment: its folds, in each the runs of every variant with their complete configs.

All configs are read before anything is trained, so a mistake in the last variant costs nothing. A
run lies in FOLDER/runs/VARIANT/seed-SEED, or in FOLDER/LABEL/runs/... where labels are left out;
`wound_jax.experiments.folder_names` names the folder of a label, and the configs say which it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from wound_jax.config import RunConfig, load_config
from wound_jax.config.diff import Difference, diff_configs, render
from wound_jax.config.load import COMMAND_LINE
from wound_jax.config.text import inline
from wound_jax.errors import UserError
from wound_jax.experiments.folder_names import folder_names
from wound_jax.experiments.spec import ExperimentSpec
from wound_jax.training.record import finished_at

# What runs of one variant differ in, or what has no part in the numbers.
APART = ("name", "run_dir", "seed")
# The split that holds labels out.
_SPLITS = {"cell_type": "celltype", "replicate": "replicate", "timepoint": "timepoint"}


@dataclass(frozen=True)
class PlannedVariant:
    """A variant before it is trained.

    Attributes:
        name: its name.
        config: its complete config; the seed in it plays no part.
        runs: config of each run, by seed; name and folder are set.
    """

    name: str
    config: RunConfig
    runs: dict[int, RunConfig]


@dataclass(frozen=True)
class Fold:
    """One split of the cells, and what is trained and scored on it.

    Attributes:
        label: what is held out; None for the split of the configs themselves.
        validation: the label that validates; None where none does.
        folder: of the fold.
        variants: their configs and runs.
    """

    label: str | None
    validation: str | None
    folder: Path
    variants: Sequence[PlannedVariant]


def plan_comparison(
    spec: ExperimentSpec, path: Path, overrides: Sequence[str], folder: Path
) -> Fold:
    """The one fold of a comparison.

    Args:
        spec: the file's content.
        path: of the file, for what it names.
        overrides: of the command line; they win over everything in the file.
        folder: where the runs go.

    Raises:
        UserError: a variant's config is wrong; one line for each mistake, with the variant's name.
    """
    return Fold(None, None, folder, _variants(spec, path, overrides, folder))


def plan_folds(
    spec: ExperimentSpec, path: Path, overrides: Sequence[str], folder: Path, labels: Sequence[str]
) -> list[Fold]:
    """The folds of a leave-one-out.

    Args:
        spec: the file's content, with `leave_out`.
        path: of the file, for what it names.
        overrides: of the command line; they win over everything in the file.
        folder: where the folds go, each into a folder of its own.
        labels: those to hold out, in order.

    Raises:
        UserError: a config is wrong, or a split is set that the folds set themselves.
    """
    for text in (*spec.overrides, *overrides):
        if text.startswith("split."):
            raise UserError(
                f"{text}: a leave-one-out sets split.* for each fold itself; choose what is held "
                "out by leave_out and labels."
            )
    folds = []
    for place, (label, own_folder) in enumerate(zip(labels, folder_names(labels), strict=True)):
        follows = labels[(place + 1) % len(labels)]
        validation = follows if spec.validate_on_next and follows != label else None
        split = _SPLITS[str(spec.leave_out)]
        held = None if validation is None else [validation]
        own = [f"split.kind={split}", f"split.test={inline([label])}", f"split.val={inline(held)}"]
        where = folder / own_folder
        variants = _variants(spec, path, [*overrides, *own], where)
        folds.append(Fold(label, validation, where, variants))
    return folds


def config_differences(a: RunConfig, b: RunConfig) -> list[Difference]:
    """The keys in which two variants differ, in the order of the schema."""
    return [difference for difference in diff_configs(a, b) if difference.key not in APART]


def render_variants(configs: dict[str, RunConfig]) -> str:
    """The variants, each but the first with what sets it apart from the first."""
    first, *others = configs
    lines = [f"{first}: the others are set beside it"]
    for name in others:
        lines.append(f"{name}:")
        text = render(config_differences(configs[first], configs[name]))
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)


def render_size(fold: Fold) -> str:
    """How many runs a comparison has, and how many of them are finished."""
    configs = [config for variant in fold.variants for config in variant.runs.values()]
    finished = sum(is_finished(folder_of(config)) for config in configs)
    variants = len(fold.variants)
    return (
        f"{variants} variants x {len(configs) // variants} seeds = {len(configs)} runs, {finished} "
        f"of them finished, in {fold.folder}"
    )


def folder_of(config: RunConfig) -> Path:
    """The folder of a run of an experiment."""
    if config.run_dir is None:
        raise ValueError("a run of an experiment has a folder; its plan sets it.")
    return Path(config.run_dir)


def is_finished(folder: Path) -> bool:
    """Whether the run in that folder was trained and evaluated to its end."""
    path = folder / "provenance.json"
    return path.is_file() and finished_at(folder) is not None


def require_own_folders(folds: Sequence[Fold]) -> None:
    """Refuses folders in which something else lies than the run that belongs there.

    Raises:
        UserError: another run, with what differs, or no run at all.
    """
    for fold in folds:
        for variant in fold.variants:
            for config in variant.runs.values():
                _require_own_folder(config)


def _require_own_folder(config: RunConfig) -> None:
    folder = folder_of(config)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not empty and holds no run; take another output.")
    there = load_config(folder / "config.yaml")
    changed = config_differences(there, config)
    if changed or there.seed != config.seed:
        raise UserError(
            f"{folder} holds a run of another config (there -> here):\n"
            f"{render(changed) or f'seed: {there.seed} -> {config.seed}'}\n"
            "Remove it to train it anew, or take another output (--output FOLDER)."
        )


def _variants(
    spec: ExperimentSpec, path: Path, overrides: Sequence[str], folder: Path
) -> list[PlannedVariant]:
    for text in (*spec.overrides, *(o for v in spec.variants.values() for o in v.overrides)):
        _require_comparable(text, str(path))
    for text in overrides:
        _require_comparable(text, COMMAND_LINE)
    # The file by itself first, so that a mistake is reported where it was made.
    configs = _resolve(spec, path, [])
    if overrides:
        configs = _resolve(spec, path, overrides)
    _require_different(configs)
    return [
        PlannedVariant(name, config, {s: _run_of(config, name, s, folder) for s in spec.seeds})
        for name, config in configs.items()
    ]


def _require_comparable(text: str, source: str) -> None:
    key = text.partition("=")[0].strip()
    if key in APART:
        raise UserError(
            f"{source}: {key} is set for each run of a comparison: seeds come from `seeds:`, names "
            "and folders from `name:`, `output:` and the names of the variants."
        )


def _resolve(spec: ExperimentSpec, path: Path, overrides: Sequence[str]) -> dict[str, RunConfig]:
    """The config of each variant, or one line for each mistake and the variants that have it."""
    configs: dict[str, RunConfig] = {}
    problems: dict[str, list[str]] = {}
    for name, variant in spec.variants.items():
        files = [path.parent / file for file in (*variant.extends, *spec.shared)]
        try:
            configs[name] = load_config(files, [*spec.overrides, *variant.overrides, *overrides])
        except UserError as e:
            for line in str(e).splitlines():
                line = line if overrides else line.replace(COMMAND_LINE, str(path), 1)
                problems.setdefault(line, []).append(name)
    if problems:
        raise UserError(
            "\n".join(f"{line} (variant {', '.join(names)})" for line, names in problems.items())
        )
    return configs


def _run_of(config: RunConfig, name: str, seed: int, folder: Path) -> RunConfig:
    place = folder / "runs" / name / f"seed-{seed}"
    return config.model_copy(update={"name": name, "run_dir": str(place), "seed": seed})


def _require_different(configs: dict[str, RunConfig]) -> None:
    for one, other in combinations(configs, 2):
        if not config_differences(configs[one], configs[other]):
            raise UserError(
                f"the variants {one} and {other} have the same config: change one, or leave it "
                "out. (An override of the command line holds for all variants.)"
            )
