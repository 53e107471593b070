"""What differs between two runs: config keys, and where the runs have them, provenance.

A side is a YAML config or a run folder, which holds `config.yaml` and usually `provenance.json`:
`{"data_fingerprint": str, "versions": {package: version}, "commit": str, ...}`. The provenance
fields that decide numbers are compared; the command and the devices are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wound_jax.config.keys import leaves
from wound_jax.config.load import load_config
from wound_jax.config.schema import RunConfig
from wound_jax.config.text import inline
from wound_jax.errors import UserError
from wound_jax.files import read_record

ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        key: a dotted config key, "data fingerprint", "versions.PACKAGE" or "commit".
        a: what the first side has, as text.
        b: what the second side has, as text.
    """

    key: str
    a: str
    b: str


def diff_runs(a: str | Path, b: str | Path) -> list[Difference]:
    """What differs between two configs or runs.

    Args:
        a: a YAML config or a run folder.
        b: the other one.

    Returns:
        The differing config keys in the order of the schema, then the data fingerprint, the
        versions by package and the commit, where both sides have a provenance.

    Raises:
        UserError: a side is no config and no run, or its files are malformed.
    """
    first, second = (load_config(_config_file(Path(side))) for side in (a, b))
    differences = diff_configs(first, second)
    if has_provenance(a) and has_provenance(b):
        differences += _provenance_differences(_provenance(Path(a)), _provenance(Path(b)))
    return differences


def diff_configs(a: RunConfig, b: RunConfig) -> list[Difference]:
    """The keys in which two configs differ, in the order of the schema.

    A key that only one of them has, since their sections are of other variants, is absent in the
    other.
    """
    one, other = leaves(a), leaves(b)
    return [
        Difference(key, *(inline(side[key]) if key in side else ABSENT for side in (one, other)))
        for key in [*one, *(key for key in other if key not in one)]
        if key not in one or key not in other or one[key] != other[key]
    ]


def has_provenance(side: str | Path) -> bool:
    """Whether a side is a run folder that recorded data, versions and commit."""
    return (Path(side) / "provenance.json").is_file()


def render(differences: Sequence[Difference]) -> str:
    """One line for each difference, `key: A -> B`, values aligned."""
    width = max((len(d.key) for d in differences), default=0) + 1
    return "\n".join(f"{d.key + ':':<{width}} {d.a} -> {d.b}" for d in differences)


def _config_file(side: Path) -> Path:
    if not side.is_dir():
        return side
    if not (side / "config.yaml").is_file():
        raise UserError(
            f"{side} holds no config.yaml, expected a YAML config or the folder of a run."
        )
    return side / "config.yaml"


def _provenance(run: Path) -> dict[str, Any]:
    return read_record(run / "provenance.json")


def _provenance_differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    packages = sorted({*a.get("versions", {}), *b.get("versions", {})})
    pairs = [("data fingerprint", a.get("data_fingerprint"), b.get("data_fingerprint"))]
    for package in packages:
        one, other = (side.get("versions", {}).get(package) for side in (a, b))
        pairs.append((f"versions.{package}", one, other))
    pairs.append(("commit", a.get("commit"), b.get("commit")))
    for key, one, other in pairs:
        if one != other:
            yield Difference(key, *(ABSENT if v is None else str(v) for v in (one, other)))
