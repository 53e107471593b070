"""Finished runs and a comparison of them, made up: every file a page reads, no training."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.config import dump_config, load_config
from wound_jax.evaluation.files import Deltas
from wound_jax.evaluation.mixing import CellMap
from wound_jax.evaluation.scorecard import scorecard
from wound_jax.evaluation.table import summarise
from wound_jax.evaluation.uncertainty import Draws
from wound_jax.files import write_record

TYPES = ("Fib", "Ker", "Mac", "Neu")
DAYS = ("day10", "day14", "day19")
GENES = ("Il1b", "Cxcl2", "Tnf", "Ccl2", "Ccl3", "Ccl4", "Il6", "Cxcl1", "Tgfb1", "Krt16", "Arg1")
N_GENES = 400
METRICS = ("pearson_delta", "pearson_delta_top100", "mse", "e_distance_ratio")
BASELINES = ("identity", "global_mean_delta", "type_mean_delta", "ridge_pca")
# Quality of each method, between no change (0) and perfect (1).
QUALITY = {"identity": 0.0, "global_mean_delta": 0.35, "type_mean_delta": 0.55, "ridge_pca": 0.6}


def scores(quality: float) -> dict[str, float]:
    """All metrics of a method of that quality."""
    return {
        "pearson_delta": quality,
        "pearson_delta_top100": min(1.0, 1.1 * quality),
        "mse": 0.05 * (1 - quality) + 0.004,
        "e_distance_ratio": 1 - quality,
    }


def result(quality: float, rng: np.random.Generator) -> dict[str, Any]:
    """The content of `eval/metrics.json`."""
    strata = [
        {
            "cell_type": cell_type,
            "timepoint": day,
            "perturbation": "Burn",
            "n_control": 60 + 7 * i,
            "n_treated": 50 + 5 * i,
            "n_control_replicates": 3,
            "n_treated_replicates": 2,
            "model": scores(float(np.clip(quality + rng.normal(0, 0.12), -0.2, 0.97))),
            "baselines": {n: scores(q + rng.normal(0, 0.04) * (q > 0)) for n, q in QUALITY.items()},
            "ceiling": scores(0.85),
            "ceiling_kind": "split-half" if i else "replicate",
        }
        for i, cell_type in enumerate(TYPES)
        for day in DAYS
        if (cell_type, day) != ("Neu", "day19")
    ]
    small = {"cell_type": "Neu", "timepoint": "day19", "perturbation": "Burn"}
    return {
        "split": {
            "kind": "replicate", "part": "test", "leaky": False, "replicates": ["b1", "b2", "b3"],
            "n_replicates": 3, "shared_controls": 0, "data_fingerprint": "f" * 32,
        },
        "strata": strata,
        "skipped": [{**small, "n_control": 12, "n_treated": 9}],
        "summary": {**summarise(strata), "ceiling": scores(0.85)},
        "biology": biology(quality, rng),
        "mixing": mixing(quality),
        "training": training(quality),
        "run": {"folder": "runs/made", "steps": [500]},
    }  # fmt: skip


def biology(quality: float, rng: np.random.Generator) -> dict[str, Any]:
    """The three criteria, as `evaluation.biology` writes them."""
    values = [
        {
            "score": score, "cell_type": "Mac", "timepoint": day, "perturbation": "Burn",
            "true_change": true, "predicted_change": true * quality + rng.normal(0, 0.02),
            "low": true - 0.12, "high": true + 0.12, "interval_from": "held-out replicates",
            "n_replicates": 3, "sign_right": True if abs(true) > 0.1 else None, "inside": True,
        }
        for score, change in (("pro_inflammatory", (0.5, 0.3, 0.08)), ("repair", (0.1, 0.25, 0.3)))
        for day, true in zip(DAYS, change, strict=True)
    ]  # fmt: skip
    return {
        "polarisation": {
            "applicable": True, "accepted": True, "signs_right": 5, "signs_judged": 5, "inside": 6,
            "n_values": 6, "scores": {}, "values": values,
            "notes": ["1 of 6 true changes are too small to have a sign"],
        },
        "wound_markers": {
            "applicable": True, "accepted": True, "accuracy": 0.9, "p_value": 0.004,
            "null_mean": 0.55, "n_qualifying": 20, "n_genes": len(GENES), "n_tested": 80,
            "n_contradicting": 2, "markers": {gene: {"right": 2, "of": 2} for gene in GENES},
            "notes": [],
        },
        "temporal": {"applicable": False, "reason": "no day was left out of training"},
    }  # fmt: skip


def mixing(quality: float) -> dict[str, Any]:
    """As `evaluation.mixing` writes it."""
    figures = {
        "knn_mixing": (0.5 * quality, 0.1, 0.49),
        "classifier_auc": (1 - 0.4 * quality, 0.97, 0.51),
        "silhouette": (0.3 * (1 - quality), 0.25, 0.004),
    }
    endings = ("", "_identity", "_real")
    flat = {
        f"{n}{e}": v for n, values in figures.items() for e, v in zip(endings, values, strict=True)
    }
    return {"applicable": True, **flat, "n_strata": 11, "skipped": []}


def training(quality: float) -> dict[str, Any]:
    """As `evaluation.stability` gives it."""
    return {
        "loss_cv": 0.06, "loss_variance": 0.0004, "spikes_per_epoch": 0.3, "spikes_per_1000": 2.1,
        "clip_rate": 0.11, "untrained_loss": 3.0, "best_loss": 1.4 - quality, "identity_loss": 1.3,
        "improvement": 0.5, "improvement_on_identity": 0.4 * quality,
    }  # fmt: skip


def deltas(quality: float, rng: np.random.Generator) -> Deltas:
    """Changes of the strata, the registered genes strongest."""
    names = [f"{t} | {d} | Burn" for t in TYPES for d in DAYS]
    shape = (len(names), N_GENES)
    true = rng.laplace(0, 0.12, shape)
    true[:, : len(GENES)] += 0.9
    noise = rng.normal(0, 0.25, shape) * np.abs(true)
    return Deltas(
        genes=np.array([*GENES, *(f"Gene{i}" for i in range(N_GENES - len(GENES)))]),
        strata=np.array(names),
        cell_type=np.repeat(TYPES, len(DAYS)),
        timepoint=np.tile(DAYS, len(TYPES)),
        control_mean=rng.gamma(1.0, 0.5, shape).astype(np.float32),
        true_delta=true.astype(np.float32),
        predicted_delta=(quality * true + noise).astype(np.float32),
        baseline_delta=(0.6 * true).astype(np.float32),
        baseline_name="ridge_pca",
    )


def cell_map(rng: np.random.Generator) -> CellMap:
    """Four clusters, moved by the wound."""
    centers = {name: 6 * np.array([i % 2, i // 2]) for i, name in enumerate(TYPES)}
    label = np.repeat(TYPES, 60)
    place = np.array([centers[name] for name in label], dtype=float)
    arms = {
        name: (place + shift + rng.normal(0, 0.7, place.shape)).astype(np.float32)
        for name, shift in (("control", 0.0), ("treated", 2.0), ("predicted", 1.7))
    }
    return CellMap(**arms, control_type=label, treated_type=label, predicted_type=label)


def draws(content: dict[str, Any], rng: np.random.Generator) -> Draws:
    """Draws around the summary, the same noise for every method but the model."""
    summary = content["summary"]
    methods = {"model": summary["model"], **summary["baselines"]}
    point = np.array([[figures[m] for m in METRICS] for figures in methods.values()])
    shared = rng.normal(0, 0.02, (1, len(METRICS), 200))
    own = rng.normal(0, 0.01, (len(methods), len(METRICS), 200))
    return Draws(
        methods=tuple(methods), metrics=METRICS, units="replicates", n_units=3, degrees=30,
        note="3 treated replicates, drawn in one group", fingerprint="same",
        values=point[..., None] + shared + own, point=point,
    )  # fmt: skip


def records(quality: float, rng: np.random.Generator, n: int = 300) -> list[dict[str, Any]]:
    """A log whose losses fall."""
    steps = np.arange(1, n + 1)
    losses = 1.4 - quality + 1.5 * np.exp(-steps / 60) + rng.normal(0, 0.05, n)
    found: list[dict[str, Any]] = [
        {
            "step": int(s),
            "train/loss": float(v),
            "train/grad_norm": float(2 * np.exp(-s / 90) + 0.2),
        }
        for s, v in zip(steps, losses, strict=True)
    ]
    return found + [{"step": int(s), "val/loss": float(losses[s - 1])} for s in steps[19::20]]


def write_run(folder: Path, quality: float = 0.7, seed: int = 42, *changes: str) -> Path:
    """A finished run; `changes` are config overrides."""
    rng = np.random.default_rng([seed, round(1000 * quality)])
    evaluation = folder / "eval"
    evaluation.mkdir(parents=True)
    config = load_config(
        None, [f"name={folder.name}", f"seed={seed}", "data.source=synthetic", *changes]
    )
    (folder / "config.yaml").write_text(dump_config(config))
    lines = (json.dumps(record) + "\n" for record in records(quality, rng))
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "parameters.json").write_text(json.dumps(PARAMETERS))
    write_record(folder / "provenance.json", PROVENANCE)
    content = result(quality, rng)
    drawn = draws(content, rng)
    content["uncertainty"] = drawn.summary()
    content["scorecard"] = scorecard(content)
    (evaluation / "metrics.json").write_text(json.dumps(content))
    drawn.save(evaluation / "bootstrap.npz")
    deltas(quality, rng).save(evaluation / "deltas.npz")
    cell_map(rng).save(evaluation / "umap.npz")
    return folder


def write_comparison(
    folder: Path,
    qualities: dict[str, float],
    seeds: int = 2,
    table: list[dict[str, Any]] | None = None,
) -> Path:
    """A comparison of variants, `seeds` runs of each; without a table the page makes its own."""
    variants = []
    for place, (name, quality) in enumerate(qualities.items()):
        change = f"model.layers={place + 1}"
        runs = [
            write_run(folder / "runs" / f"v{place}-{seed}", quality + 0.01 * seed, seed, change)
            for seed in range(seeds)
        ]
        places = [str(run.relative_to(folder)) for run in runs]
        variants.append({"name": name, "runs": places, "diff": {}})
    content = {"name": "made", "variants": variants, "warnings": [], "table": table or []}
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder


PARAMETERS = {
    "labels": {
        "frozen": {"backbone": 900_000, "heads": 0},
        "lora_a": {"backbone": 20_000, "heads": 0},
        "head": {"backbone": 0, "heads": 80_000},
    },
    "trainable": {"backbone": 20_000, "heads": 80_000},
    "total": {"backbone": 920_000, "heads": 80_000},
}
PROVENANCE = {
    "command": "train --config made.yaml", "commit": "abc123", "data": "synthetic wound set",
    "data_fingerprint": "f" * 32, "devices": ["cpu:cpu"], "python": "3.11.7",
    "started": "2026-01-02T10:00:00+00:00", "finished": "2026-01-02T10:12:30+00:00",
    "versions": {"wound_jax": "0.1.0", "jax": "0.10.2"},
}  # fmt: skip
