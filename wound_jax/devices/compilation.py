"""Keeps compiled programs from one process to the next (JAX's persistent compilation cache).

A program is compiled once for each model, size, device and version of JAX; the next process reads
it from disk. The folder is `WOUND_JAX_CACHE`, else `$XDG_CACHE_HOME/wound_jax`, else
`~/.cache/wound_jax`; `WOUND_JAX_CACHE=off` does without. A folder that JAX has been given already
(`JAX_COMPILATION_CACHE_DIR`) is left as it is.
"""

import hashlib
import os
import platform
from pathlib import Path

VARIABLE = "WOUND_JAX_CACHE"
# What compiles faster than this is not worth a file.
SECONDS_WORTH_KEEPING = 0.3


def use_compilation_cache() -> Path | None:
    """Switches the cache on; call before the first compilation. Never fails.

    Returns:
        The folder of the cache; None where it is off, set already, or cannot be written.
    """
    import jax

    folder = cache_folder()
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)
    return folder


def cache_folder() -> Path | None:
    """Where compiled programs of this kind of processor are kept; None if that is switched off."""
    wanted = os.environ.get(VARIABLE)
    if wanted is not None and wanted.strip().lower() in ("", "0", "off", "none"):
        return None
    try:
        base = Path(wanted).expanduser() if wanted else _user_cache()
    except RuntimeError:  # no home folder is known
        return None
    return base / f"xla-{_processor()}"


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "wound_jax"


def _processor() -> str:
    """Names a kind of processor: programs for one may not run on another that shares the home."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    name = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(name.encode()).hexdigest()[:12]
