"""From the file of a comparison to the runs it asks for, each with its complete config.

All configs are read before anything is trained, so a mistake in the last variant costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from wound_jax.config import RunConfig, load_config
from wound_jax.config.diff import Difference, render
from wound_jax.config.load import COMMAND_LINE, inline, schema_keys, value_at
from wound_jax.errors import UserError
from wound_jax.experiments.spec import CompareSpec
from wound_jax.training import provenance

# What runs of one variant differ in, or what has no part in the numbers.
APART = ("name", "run_dir", "seed")


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


def plan_variants(
    spec: CompareSpec, path: Path, overrides: Sequence[str], folder: Path
) -> list[PlannedVariant]:
    """The runs of a comparison.

    Args:
        spec: the file's content.
        path: of the file, for what it names.
        overrides: of the command line; they win over everything in the file.
        folder: where the runs go: `folder/runs/VARIANT/seed-SEED`.

    Raises:
        UserError: a variant's config is wrong; one line for each mistake, with the variant's name.
    """
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


def config_differences(a: RunConfig, b: RunConfig) -> list[Difference]:
    """The keys in which two variants differ, in the order of the schema."""
    pairs = ((key, value_at(a, key), value_at(b, key)) for key in schema_keys() if key not in APART)
    return [Difference(key, inline(one), inline(two)) for key, one, two in pairs if one != two]


def render_variants(configs: dict[str, RunConfig]) -> str:
    """The variants, each but the first with what sets it apart from the first."""
    first, *others = configs
    lines = [f"{first}: the others are set beside it"]
    for name in others:
        lines.append(f"{name}:")
        text = render(config_differences(configs[first], configs[name]))
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)


def folder_of(config: RunConfig) -> Path:
    """The folder of a run of a comparison."""
    if config.run_dir is None:
        raise ValueError("a run of a comparison has a folder; plan_variants sets it.")
    return Path(config.run_dir)


def is_finished(folder: Path) -> bool:
    """Whether the run in that folder was trained and evaluated to its end."""
    path = folder / "provenance.json"
    return path.is_file() and provenance.finished_at(folder) is not None


def require_own_folders(variants: Sequence[PlannedVariant]) -> None:
    """Refuses folders in which something else lies than the run that belongs there.

    Raises:
        UserError: another run, with what differs, or no run at all.
    """
    for variant in variants:
        for seed, config in variant.runs.items():
            folder = folder_of(config)
            if not folder.is_dir() or not any(folder.iterdir()):
                continue
            if not (folder / "config.yaml").is_file():
                raise UserError(f"{folder} is not empty and holds no run; take another output.")
            there = load_config(folder / "config.yaml")
            changed = config_differences(there, config)
            if changed or there.seed != seed:
                raise UserError(
                    f"{folder} holds a run of another config (there -> here):\n"
                    f"{render(changed) or f'seed: {there.seed} -> {seed}'}\n"
                    "Remove it to train it anew, or take another output (--output FOLDER)."
                )


def _require_comparable(text: str, source: str) -> None:
    key = text.partition("=")[0].strip()
    if key in APART:
        raise UserError(
            f"{source}: {key} is set for each run of a comparison: seeds come from `seeds:`, names "
            "and folders from `name:`, `output:` and the names of the variants."
        )


def _resolve(spec: CompareSpec, path: Path, overrides: Sequence[str]) -> dict[str, RunConfig]:
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
