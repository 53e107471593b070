"""The file of a comparison: what it may hold, how a variant's config comes about, the dry run."""

import subprocess
import sys
from pathlib import Path

import pytest

from wound_jax.compare import main
from wound_jax.config import RunConfig, dump_config
from wound_jax.config.diff import diff_configs
from wound_jax.config.keys import value_at
from wound_jax.errors import UserError
from wound_jax.experiments.plan import (
    config_differences,
    folder_of,
    plan_comparison,
    plan_folds,
    render_size,
    render_variants,
    require_own_folders,
)
from wound_jax.experiments.spec import load_comparison, load_leave_one_out, load_spec
from wound_jax.files import write_record

pytestmark = pytest.mark.quick

PHASES = Path(__file__).resolve().parents[1] / "configs" / "compare_phases.yaml"
HEAD = "name: x\nseeds: [1, 2]\n"


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def writer(text: str, name: str = "compare.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return writer


def plan(path: Path, *overrides: str):
    return plan_comparison(load_spec(path), path, overrides, Path("runs/x")).variants


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        plan(path, *overrides)
    return str(error.value)


def test_later_layers_win(write):
    """What a variant extends, the shared files, the shared overrides, its own, the command line."""
    write("training: {batch_size: 1, warmup_steps: 1, val_every: 1, log_every: 1}\n", "own.yaml")
    write("training: {warmup_steps: 2, val_every: 2, log_every: 2}\n", "shared.yaml")
    path = write(
        f"{HEAD}shared: shared.yaml\n"
        "overrides: [training.val_every=3, training.log_every=3, training.max_steps=3]\n"
        "variants:\n"
        "  a: {extends: own.yaml, overrides: [training.log_every=4, training.max_steps=4]}\n"
    )
    (variant,) = plan(path, "training.max_steps=5")
    training = variant.config.training
    assert training.batch_size == 1
    assert training.warmup_steps == 2
    assert training.val_every == 3
    assert training.log_every == 4
    assert training.max_steps == 5


def test_a_seed_changes_the_seed_name_and_folder_alone(write):
    path = write(f"{HEAD}overrides: [split.seed=7]\nvariants: {{a: }}\n")
    (variant,) = plan(path)
    assert list(variant.runs) == [1, 2]
    for seed, config in variant.runs.items():
        changed = {d.key for d in diff_configs(config, variant.config)}
        assert changed == {"name", "run_dir", "seed"}
        assert (config.seed, config.name, config.split.seed) == (seed, "a", 7)
        assert config.run_dir == f"runs/x/runs/a/seed-{seed}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEAD}variant: {{a: }}\n", "unknown key of an experiment 'variant'. Did you mean 'vari"),
        (
            f"{HEAD}variants: {{a: {{extend: b.yaml}}}}\n",
            "unknown key of variant 'a' 'extend'. Did you mean 'extends'?",
        ),
        (f"{HEAD}variants: {{a/b: }}\n", "variants.a/b: got 'a/b', but string should match"),
        (f"{HEAD}variants: {{}}\n", "variants: got {}, but dictionary should have at least 1"),
        ("name: x\nvariants: {a: }\n", "seeds is missing."),
        ("name: x\nseeds: [1, 1]\nvariants: {a: }\n", "seeds: got [1, 1], expected each one once"),
        ("name: x\nseeds: [1.5]\nvariants: {a: }\n", "seeds.0: got 1.5, but"),
        (f"{HEAD}variants:\n  a:\n  a:\n", "line 5: the key 'a' is given twice"),
        ("- a\n", "expected keys with values: name, seeds, variants"),
        ("name: [x\n", "this is not valid YAML: line 2"),
    ],
)
def test_mistakes_in_the_file(write, text, expected):
    path = write(text)
    with pytest.raises(UserError) as error:
        load_spec(path)
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("line", "key"),
    [("leave_out: replicate", "leave_out"), ("labels: [a]", "labels")],
)
def test_a_leave_one_out_is_no_comparison(write, line, key):
    path = write(f"{HEAD}{line}\nvariants: {{a: }}\n")
    with pytest.raises(UserError, match=f"{key} is for a leave-one-out.*wound_jax.leave_one_out"):
        load_comparison(path)


def test_a_missing_file_names_those_there_are(write):
    path = write(f"{HEAD}variants: {{a: }}\n")
    with pytest.raises(UserError, match=r"unknown experiment file .*comare.yaml'. Did you mean"):
        load_spec(path.with_name("comare.yaml"))


def test_mistakes_in_configs_are_told_at_once_and_where_they_were_made(write):
    path = write(
        f"{HEAD}variants:\n"
        "  a: {overrides: [model.layer=3]}\n"
        "  b: {extends: no.yaml}\n"
        "  c: {overrides: [model.lora.r=3]}\n"
        "  d:\n"
    )
    lines = message(path, "training.max_steps=3").splitlines()
    assert lines[0] == (
        f"{path}: unknown config key 'model.layer'. Did you mean 'model.layers'? (variant a)"
    )
    assert "unknown config file" in lines[1]
    assert lines[1].endswith("(variant b)")
    assert lines[2].startswith(f"{path}: model.lora.r=3 has no effect: model.lora.enable is false")
    assert len(lines) == 3


def test_a_mistake_of_the_command_line_is_told_once(write):
    path = write(f"{HEAD}variants: {{a: , b: {{overrides: [model.layers=2]}}}}\n")
    assert message(path, "model.head=2") == (
        "command line: unknown config key 'model.head'. Did you mean 'model.heads'? (variant a, b)"
    )
    assert message(path, "model.layers=3").startswith("the variants a and b have the same config")
    assert message(path, "run_dir=runs/y").startswith("command line: run_dir is set for each run")
    path = write(f"{HEAD}variants: {{a: {{overrides: [seed=3]}}}}\n")
    assert message(path).startswith(f"{path}: seed is set for each run of a comparison")


def test_a_folder_with_another_run_is_not_written_into(write, tmp_path):
    path = write(f"{HEAD}variants: {{a: {{overrides: [model.layers=2]}}}}\n")
    fold = plan_comparison(load_spec(path), path, [], tmp_path)
    require_own_folders([fold])
    folder = tmp_path / "runs" / "a" / "seed-2"
    folder.mkdir(parents=True)
    require_own_folders([fold])
    (folder / "config.yaml").write_text(dump_config(RunConfig(seed=2)))
    with pytest.raises(UserError, match=r"seed-2 holds a run of another config .*\n.*: 8 -> 2\n"):
        require_own_folders([fold])
    (folder / "config.yaml").write_text(dump_config(fold.variants[0].runs[1]))
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        require_own_folders([fold])
    (folder / "config.yaml").rename(folder / "notes.txt")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        require_own_folders([fold])


@pytest.mark.parametrize(
    ("labels", "validate", "expected"),
    [
        (["d1", "d2"], False, [("d1", None), ("d2", None)]),
        (["d1", "d2", "d3"], True, [("d1", "d2"), ("d2", "d3"), ("d3", "d1")]),
        # Nothing else to validate on.
        (["d1"], True, [("d1", None)]),
    ],
)
def test_a_fold_holds_out_its_label_whatever_else_is_set(write, labels, validate, expected):
    path = write(
        f"{HEAD}leave_out: timepoint\nvalidate_on_next: {str(validate).lower()}\n"
        "overrides: [training.max_steps=3, training.val_every=3]\nvariants: {a: }\n"
    )
    given = ["training.max_steps=4"]
    folds = plan_folds(load_spec(path), path, given, Path("out"), labels)
    assert [(fold.label, fold.validation) for fold in folds] == expected
    for fold in folds:
        assert fold.folder == Path("out") / str(fold.label)
        ((name, runs),) = ((variant.name, variant.runs) for variant in fold.variants)
        assert (name, list(runs)) == ("a", [1, 2])
        for seed, config in runs.items():
            assert (config.split.kind, value_at(config, "split.test")) == (
                "timepoint",
                (fold.label,),
            )
            held = None if fold.validation is None else (fold.validation,)
            assert value_at(config, "split.val") == held
            assert (config.training.max_steps, config.training.val_every) == (4, 3)
            assert folder_of(config) == fold.folder / "runs" / "a" / f"seed-{seed}"


@pytest.mark.parametrize("where", ["file", "command line"])
def test_a_fold_sets_its_split_itself(write, where):
    overrides = "overrides: [split.seed=3]\n" if where == "file" else ""
    path = write(f"{HEAD}leave_out: replicate\n{overrides}variants: {{a: }}\n")
    given = ["split.seed=3"] if where != "file" else []
    with pytest.raises(UserError, match=r"^split\.seed=3: a leave-one-out sets split\.\*"):
        plan_folds(load_spec(path), path, given, Path("out"), ["m1"])


def test_the_size_of_a_comparison_says_what_is_finished(write, tmp_path):
    path = write(f"{HEAD}variants: {{a: {{overrides: [model.layers=2]}}, b: }}\n")
    fold = plan_comparison(load_spec(path), path, [], tmp_path)
    for seed, record in ((1, {"finished": "today"}), (2, {"finished": None})):
        folder = folder_of(fold.variants[0].runs[seed])
        folder.mkdir(parents=True)
        write_record(folder / "provenance.json", record)
    assert render_size(fold) == (
        f"2 variants x 2 seeds = 4 runs, 1 of them finished, in {tmp_path}"
    )


def test_variants_are_set_beside_the_first(write):
    path = write(
        f"{HEAD}variants:\n  a:\n  b: {{overrides: [model.layers=2]}}\n"
        "  c: {overrides: [model.heads=4]}\n"
    )
    configs = {variant.name: variant.config for variant in plan(path)}
    assert render_variants(configs) == (
        "a: the others are set beside it\nb:\n  model.layers: 8 -> 2\nc:\n  model.heads: 8 -> 4"
    )


@pytest.mark.parametrize("name", ["compare_phases", "compare_kang"])
def test_the_shipped_phases_differ_in_their_parts_and_in_nothing_else(name):
    path = PHASES.with_name(f"{name}.yaml")
    spec = load_spec(path)
    variants = {v.name: v.config for v in plan(path, "training.max_steps=20")}
    parts = {
        name: (c.model.lora.enable, c.model.mhc.enable, c.velocity.enable)
        for name, c in variants.items()
    }
    assert parts == {
        "full": (False, False, False),
        "lora": (True, False, False),
        "lora_mhc": (True, True, False),
        "lora_velocity": (True, False, True),
        "lora_mhc_velocity": (True, True, True),
        "full_mhc": (False, True, False),
    }
    assert (spec.name, spec.folder) == (name, Path("runs") / name)
    assert len(spec.seeds) >= 3
    first = variants["full"]
    assert first.split.kind == "replicate"
    for config in variants.values():
        assert config.training.max_steps == 20
        for difference in config_differences(first, config):
            assert difference.key.startswith(("model.lora.", "model.mhc.", "velocity."))


def test_a_dry_run_shows_the_variants_and_trains_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(PHASES), "--dry-run", "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert "lora:\n  model.lora.enable: false -> true\n" in out
    assert out.endswith("\n6 variants x 3 seeds = 18 runs, 0 of them finished, in out\n")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_needs_nothing_heavy():
    program = (
        "import sys\nfrom wound_jax.compare import main\n"
        f"assert main(['--config', {str(PHASES)!r}, '--dry-run']) == 0\n"
        "assert not {'jax', 'scanpy', 'ott', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give either --config FILE or the folders of finished runs"),
        (["--config", "a.yaml", "runs/b"], "give either --config FILE or the folders"),
        (["runs/a", "runs/b", "seed=3"], "finished runs stay as they are: ['seed=3']"),
        (["runs/a", "--allow-different", "split,gene"], "'gene'. Did you mean 'genes'?"),
        (["no/run"], "no/run is no run folder"),
    ],
)
def test_wrong_arguments(capsys, arguments, expected):
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_an_old_word_is_told_by_the_new_one(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nleave_out: animal\nseeds: [1]\nvariants: {a: {extends: full.yaml}}\n")
    with pytest.raises(UserError, match=r"leave_out: got 'animal', .*Did you mean 'replicate'\?"):
        load_leave_one_out(path)
