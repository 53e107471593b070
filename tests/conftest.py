"""Shared by all tests: two CPU devices, where the shared material lies, checked annotations."""

import os
from pathlib import Path

# Before jax is imported anywhere: tests of sharding need two devices on one CPU.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests leave nothing in the cache of the user.
os.environ.setdefault("WOUND_JAX_CACHE", "off")
# Programs run a few times each: to compile them well takes longer than it saves. CI runs the tests
# of numbers from matrix products (marker `blas`) once more as users compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from hypothesis import settings

# A time limit for an example tells nothing but how busy the machine is. The same examples in every
# run, so that what passes passes everywhere; --hypothesis-profile=explore draws new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def compiled_as_users_do():
    """For bounds that are of the optimised programs: Adam makes much of little where it is not."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and real cells beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared fixtures at {SHARED.name}/ beside the checkout")
    return SHARED
