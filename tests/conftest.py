"""Shared by all tests: two CPU devices, where the shared material lies, light evaluations."""

import os
from functools import partial
from pathlib import Path

# Before jax is imported anywhere: tests of sharding need two devices on one CPU.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests leave nothing in the cache of the user.
os.environ.setdefault("WOUND_JAX_CACHE", "off")
# Programs run a few times each: to compile them well takes longer than it saves. CI runs the tests
# of numbers from matrix products (marker `blas`) once more as users compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Before NumPy is imported: workers share the cores, and threads of one that wait for those of
# another doubled the processor time of the suite.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A time limit for an example tells nothing but how busy the machine is. The same examples in every
# run, so that what passes passes everywhere; --hypothesis-profile=explore draws new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

SHARED = Path(__file__).resolve().parents[2] / "shared"


# What evaluations with `light_scores` fit: the identity, these rules and their stack.
FEW_RULES = ("global_mean_delta", "type_mean_delta", "regressed_mean_delta")


@pytest.fixture(scope="module")
def light_scores():
    """Evaluations with few baselines and small forests, for tests of what is around scores."""
    from wound_jax.baselines import fit_baselines, stacked_linear
    from wound_jax.evaluation import reference
    from wound_jax.prediction.calibration import across_genes

    few = partial(fit_baselines, names=("identity", *FEW_RULES, "stacked_linear"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "fit_baselines", few)
        patch.setattr(stacked_linear, "MEMBERS", FEW_RULES)
        patch.setitem(across_genes._TREES, "n_estimators", 20)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and real cells beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared fixtures at {SHARED.name}/ beside the checkout")
    return SHARED
