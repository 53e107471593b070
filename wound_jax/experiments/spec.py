"""File of an experiment: which variants, which seeds, what they share, and what is left out.

    name: kang_celltype
    seeds: [42, 43, 44]
    shared: [recipe_small.yaml, kang_cells.yaml]
    variants:
      full: {extends: phase3_random_init.yaml}
      lora_mhc: {extends: phase1_lora.yaml, overrides: [model.mhc.enable=true]}
    leave_out: cell_type

A variant's config is what it extends, over that the shared files and overrides, over these its own
overrides; later ones win. Files are named relative to this file, overrides are written as on the
command line. Without `leave_out` it is a comparison on the split of the configs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError

from wound_jax.config.keys import nearest_value
from wound_jax.errors import UserError, unknown_name
from wound_jax.registry import Labels, Seed


def _as_tuple(value: Any) -> Any:
    """One name as a list of one."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_as_tuple)]
# A part of paths and of tables.
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
LeaveOut = Literal["cell_type", "replicate", "timepoint"]
# What runs must share to be compared; `wound_jax.experiments.cells` says how it is seen.
ASPECTS = ("split", "genes", "scale")


class Part(BaseModel):
    """A part of the file: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class VariantSpec(Part):
    """What sets one variant apart: config files to begin with, and overrides `a.b.c=value`."""

    extends: Texts = ()
    overrides: Texts = ()


class ExperimentSpec(Part):
    """Variants that are each trained with every seed, on one split or on one for each label."""

    name: Label
    # Where runs and tables go; null takes runs/NAME.
    output: str | None = None
    # Config files laid over those that a variant extends, and overrides: the same for all.
    shared: Texts = ()
    overrides: Texts = ()
    seeds: Annotated[tuple[Seed, ...], Strict(False), Field(min_length=1)]
    # Whether the seeds of a variant train in one program.
    together: bool = True
    variants: Annotated[dict[Label, VariantSpec], Field(min_length=1)]
    # What is held out, one label after the other; null keeps the split of the configs.
    leave_out: LeaveOut | None = None
    # Which labels are held out; null takes all that have treated cells.
    labels: Annotated[Labels, BeforeValidator(_as_tuple)] | None = None
    # Whether the label that follows validates; otherwise all other labels train.
    validate_on_next: bool = False

    @property
    def folder(self) -> Path:
        """Where the experiment is written."""
        return Path(self.output) if self.output else Path("runs") / self.name


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key given twice is an error, not silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_spec(path: str | Path) -> ExperimentSpec:
    """Reads the file of an experiment.

    Raises:
        UserError: it is missing, no YAML, or one line for each key that is unknown or wrong.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml"))
        raise unknown_name("experiment file", str(path), near) from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: this is not valid YAML: {_problem(e)}.") from e
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys with values: name, seeds, variants.")
    # `lora:` with nothing below it is a variant that changes nothing.
    variants = values.get("variants")
    if isinstance(variants, dict):
        values["variants"] = {name: one or {} for name, one in variants.items()}
    try:
        spec = ExperimentSpec.model_validate(values)
    except ValidationError as e:
        raise UserError("\n".join(f"{path}: {_line(error)}" for error in e.errors())) from e
    if len(set(spec.seeds)) < len(spec.seeds):
        raise UserError(f"{path}: seeds: got {list(spec.seeds)}, expected each one once.")
    return spec


def load_comparison(path: str | Path) -> ExperimentSpec:
    """Reads the file of a comparison, which leaves nothing out.

    Raises:
        UserError: as `load_spec`, or it is the file of a leave-one-out.
    """
    spec = load_spec(path)
    for key in ("leave_out", "labels", "validate_on_next"):
        if getattr(spec, key):
            raise UserError(
                f"{path}: {key} is for a leave-one-out, and a comparison takes the split of its "
                f"configs; run it by python -m wound_jax.leave_one_out --config {path}."
            )
    return spec


def load_leave_one_out(
    path: str | Path, leave_out: LeaveOut | None = None, labels: Sequence[str] | None = None
) -> ExperimentSpec:
    """Reads the file of a leave-one-out.

    Args:
        path: of the file.
        leave_out: in place of the file's.
        labels: in place of the file's.

    Raises:
        UserError: as `load_spec`, or nothing is left out.
    """
    asked = {"leave_out": leave_out, "labels": labels and tuple(labels)}
    spec = load_spec(path)
    spec = spec.model_copy(update={key: value for key, value in asked.items() if value})
    if spec.leave_out is None:
        raise UserError(
            f"{path}: leave_out is missing: cell_type, replicate or timepoint (or --leave-out)."
        )
    return spec


def _problem(error: Exception) -> str:
    """What is wrong, and in which line, where that is known."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else str(error).splitlines()[0]


def _line(error: Any) -> str:
    """One of pydantic's findings, as a line."""
    place = [str(part) for part in error["loc"] if part != "[key]"]
    if error["type"] == "extra_forbidden":
        inside = len(place) > 2
        known = (VariantSpec if inside else ExperimentSpec).model_fields
        what = f"key of variant {place[1]!r}" if inside else "key of an experiment"
        return str(unknown_name(what, place[-1], known))
    if error["type"] == "missing":
        return f"{'.'.join(place)} is missing."
    problem = error["msg"][:1].lower() + error["msg"][1:]
    key, given, hint = ".".join(place), error["input"], ""
    if error["type"] == "literal_error":
        hint = nearest_value(key, str(given), get_args(LeaveOut))
    return f"{key}: got {given!r}, but {problem}.{hint}"
