"""The process of one case of the PyTorch original (arc-state 0.11): runs its own `state tx train`.

Started as a file under the Python of an environment where arc-state and `transformers<5` are
installed; imports nothing of wound_jax. The command trains as it always does, the precision of
matrix products that it chooses included; a callback holds it between turns. Its answers are those
of `benchmarking.worker`.
"""

# pyright: reportMissingImports=false

import json
import re
import resource
import sys
import time
from pathlib import Path

ANSWER = "@benchmark "


def main(argv: list[str]) -> int:
    """Serves one case; the argument is JSON with `case`, `size`, `path`, `started`, `folder`."""
    task = json.loads(argv[0])
    import lightning.pytorch as pl
    from state.__main__ import load_hydra_config, run_tx_train

    turns = type("Callback", (Turns, pl.Callback), {})(task["started"])
    build = pl.Trainer.__init__

    def with_turns(self, *args, **kwargs):
        kwargs["callbacks"] = [*kwargs.get("callbacks", []), turns]
        build(self, *args, **kwargs)

    pl.Trainer.__init__ = with_turns
    run_tx_train(load_hydra_config("tx", overrides(task)))
    return 0


def overrides(task: dict) -> list[str]:
    """The command line of the original for the settings of a case."""
    case, size, folder = task["case"], task["size"], Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    toml = folder / "split.toml"
    toml.write_text(
        f'[datasets]\nbench = "{Path(task["path"]).parent}"\n\n[training]\nbench = "train"\n\n'
        "[zeroshot]\n\n[fewshot]\n"
    )
    return [
        f"data.kwargs.toml_config_path={toml}",
        "data.kwargs.embed_key=X_hvg",
        "data.kwargs.output_space=embedding",
        "data.kwargs.pert_col=condition",
        "data.kwargs.control_pert=Sham",
        "data.kwargs.cell_type_key=cell_types_simple_short",
        "data.kwargs.batch_col=mouse_id",
        "data.kwargs.num_workers=0",
        "data.kwargs.pin_memory=false",
        "model=state",
        f"model.kwargs.cell_set_len={size['set_len']}",
        f"model.kwargs.hidden_dim={size['hidden']}",
        "model.kwargs.n_encoder_layers=4",
        "model.kwargs.n_decoder_layers=4",
        f"model.kwargs.loss={case['loss']}",
        f"model.kwargs.distributional_loss={case['loss']}",
        f"model.kwargs.lora.enable={str(case['variant'] == 'lora').lower()}",
        *backbone(case["backbone"], size),
        f"training.batch_size={size['sets']}",
        "training.max_steps=1000000000",
        "training.val_freq=1000000000",
        "training.ckpt_every_n_steps=1000000000",
        "use_wandb=false",
        "overwrite=true",
        f"output_dir={folder}",
        "name=peer",
    ]


def backbone(name: str, size: dict) -> list[str]:
    """The overrides of the transformer: our sizes, no dropout inside it."""
    key = "model.kwargs.transformer_backbone_kwargs"
    found = [
        f"model.kwargs.transformer_backbone_key={'GPT2' if name == 'gpt2' else name}",
        f"{key}.num_hidden_layers={size['layers']}",
        f"{key}.num_attention_heads={size['heads']}",
        f"{key}.num_key_value_heads={size['heads']}",
        f"{key}.head_dim={size['hidden'] // size['heads']}",
        f"{key}.intermediate_size={4 * size['hidden']}",
    ]
    if name == "gpt2":
        found += [f"+{key}.{where}_pdrop=0.0" for where in ("resid", "embd", "attn")]
    return found


class Turns:
    """The callback that holds the training between turns."""

    def __init__(self, started: float):
        self.started = started
        self.left = 0
        self.first = True
        self.compute: list[float] = []

    def on_train_batch_start(self, *_):
        """Starts the clock of the step."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, *_):
        """Stops it, and answers when a turn is over."""
        now = time.perf_counter()
        if self.first:
            self.first = False
            answer({"first_step_seconds": time.time() - self.started, **environment()})
        elif self.left:
            self.compute.append(now - self.start)
            self.left -= 1
            if not self.left:
                answer(self.figures(now))
        if not self.left:
            self.wait(trainer)

    def figures(self, now: float) -> dict:
        """The figures of a turn that ends now."""
        whole = (now - self.round_start) / len(self.compute)
        alone = sum(self.compute) / len(self.compute)
        return {
            "whole_seconds": whole,
            "compute_seconds": alone,
            "waiting_share": max(0.0, 1 - alone / whole),
        }

    def wait(self, trainer):
        """Waits for the next turn; ends the training where none comes."""
        for line in sys.stdin:
            word, _, argument = line.strip().partition(" ")
            if word == "round":
                self.left, self.compute = int(argument), []
                self.round_start = time.perf_counter()
                return
            if word == "final":
                trainer.save_checkpoint(f"{argument}.ckpt")
                answer({"peak_memory_bytes": peak_memory()})
        trainer.should_stop = True


def environment() -> dict:
    """Where the original runs, and with which versions."""
    import importlib.metadata

    import torch

    names = ("arc-state", "torch", "transformers", "lightning")
    return {
        "backend": "cuda" if torch.cuda.is_available() else "cpu",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "matmul_precision": torch.get_float32_matmul_precision(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def peak_memory() -> dict:
    """Peak bytes of this process on the host, and on its accelerator if there is one."""
    import torch

    peaks = {"host": host_peak()}
    if torch.cuda.is_available():
        peaks["device"] = float(torch.cuda.max_memory_allocated())
    return peaks


def host_peak() -> float:
    """Peak resident bytes of this process, measured as for ours."""
    status = Path("/proc/self/status")
    if status.exists():
        (found,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        return 1024.0 * int(found)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def answer(figures: dict) -> None:
    """Writes one answer on a line of its own, beside the progress bar of the original."""
    print("\n" + ANSWER + json.dumps(figures), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
