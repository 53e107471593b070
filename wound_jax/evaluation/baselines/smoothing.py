"""Kernel ridge regression of the shifts with an unpenalised offset, as weights of training shifts.

Owns the linear system behind the ridge and the additive baseline. With the kernel K of the training
strata and k between wanted and training strata,

    [ K + penalty I   1 ] [A]   [Y]
    [ 1'              0 ] [b] = [0],     shift(wanted) = k A + b

which is ridge regression on features Z with K = Z Z' (Saunders, Gammerman and Vovk 1998, Ridge
regression learning algorithm in dual variables) and leaves the offset b without penalty.
"""

import numpy as np
from jaxtyping import Float


def smoothing_weights(
    kernel: Float[np.ndarray, "strata strata"],
    wanted_kernel: Float[np.ndarray, "wanted strata"],
    penalty: float,
) -> Float[np.ndarray, "wanted strata"]:
    """Weights W, each row of sum 1, such that the expected shifts are W Y.

    Args:
        kernel: positive semi-definite, among the training strata.
        wanted_kernel: between wanted and training strata.
        penalty: positive, in the unit of the kernel.

    Returns:
        float64 [wanted, strata].
    """
    n = len(kernel)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = kernel + penalty * np.eye(n)
    system[n, n] = 0.0
    wanted = np.concatenate([wanted_kernel, np.ones((len(wanted_kernel), 1))], axis=1)
    # The system is symmetric, so that solving for the wanted rows gives the weights of Y.
    return np.linalg.solve(system, wanted.T)[:n].T
