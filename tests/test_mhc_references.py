"""Whole hyper-connections against three independent float64 references, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wound_jax.models.mhc.doubly_stochastic import sinkhorn_knopp
from wound_jax.models.mhc.hyper_connection import HyperConnection, HyperConnectionConfig, HyperMaps
from wound_jax.models.mhc.streams import read_streams, write_streams

N, WIDTH = 4, 8
NAMES = ("phi", "a_pre", "a_post", "a_res", "b_pre", "b_post", "b_res")


def load(shared, name: str) -> dict[str, np.ndarray]:
    with np.load(shared / f"fixtures/mhc/{name}.npz") as file:
        return dict(file)


def close(ours, theirs, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)


def along(values, x):
    """The values with as many axes as `x`, along its last ones."""
    return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


def split_columns(b: np.ndarray, a: np.ndarray) -> dict[str, np.ndarray]:
    """The packed biases [pre | post | res] and scales of the references under our names."""
    return {
        "a_pre": a[0],
        "a_post": a[1],
        "a_res": a[2],
        "b_pre": b[:N],
        "b_post": b[N : 2 * N],
        "b_res": b[2 * N :].reshape(N, N),
    }


def packed(grads: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `split_columns`, for gradients: biases and scales."""
    b = np.concatenate([grads["b_pre"], grads["b_post"], grads["b_res"].reshape(-1)])
    return b, np.stack([grads["a_pre"], grads["a_post"], grads["a_res"]])


def run(reference: dict[str, np.ndarray], weights: dict[str, np.ndarray], remat: bool = False):
    """Our module on a reference's input: new streams, maps, and gradients of <cotangent, y>."""
    config = HyperConnectionConfig(N, "sinkhorn", 20, remat=remat)
    graphdef, state = nnx.split(HyperConnection(WIDTH, config, 0, rngs=nnx.Rngs(0)))
    assert {path[0] for path, _ in nnx.to_flat_state(state)} == set(NAMES)

    def apply(weights, branch_weight, branch_bias, x):
        flat = {(name,): nnx.Param(value) for name, value in weights.items()}
        connection = nnx.merge(graphdef, nnx.from_flat_state(flat))
        y, maps = connection(x, lambda h: h @ branch_weight + along(branch_bias, h))
        return jnp.sum(reference["cotangent"] * y), (y, maps)

    arguments = (weights, reference["branch_W"], reference["branch_b"], reference["x"])
    arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), arguments)
    (_, (y, maps)), grads = jax.jit(jax.value_and_grad(apply, argnums=(0, 1, 2, 3), has_aux=True))(
        *arguments
    )
    return y, maps, grads


@pytest.mark.parametrize("remat", [False, True])
def test_the_paper_s_equations_with_all_gradients(shared, remat):
    reference = load(shared, "mhc_paper")
    weights = {"phi": reference["phi"], **split_columns(reference["b"], reference["alpha"])}
    with jax.enable_x64(True):
        y, maps, (grads, branch_weight, _, x) = run(reference, weights, remat)
    assert y.dtype == np.float64
    close(y, reference["y"])
    close(maps.h_pre, reference["H_pre"])
    close(maps.h_post, reference["H_post"])
    close(maps.h_res, reference["H_res"])
    b, alpha = packed(grads)
    close(grads["phi"], reference["grad_phi"])
    close(b, reference["grad_b"])
    close(alpha, reference["grad_alpha"])
    close(branch_weight, reference["grad_branch_W"])
    close(x, reference["grad_x"])


def deepseek(reference: dict[str, np.ndarray], eps: float):
    """DeepSeek-V4's connection from its own description, with `eps` in every place it has one."""

    def maps(x, fn, base, scale):
        flat = x.reshape(*x.shape[:-2], -1)
        flat = flat / jnp.sqrt(jnp.mean(flat**2, -1, keepdims=True) + eps)
        pre, post, comb = jnp.split(flat @ fn.T, (N, 2 * N), axis=-1)
        pre = jax.nn.sigmoid(pre * scale[0] + along(base[:N], pre)) + eps
        post = 2 * jax.nn.sigmoid(post * scale[1] + along(base[N : 2 * N], post))
        comb = comb.reshape(*comb.shape[:-1], N, N)
        logits = comb * scale[2] + along(base[2 * N :].reshape(N, N), comb)
        comb = jax.nn.softmax(logits, axis=-1) + eps
        comb = comb / (comb.sum(-2, keepdims=True) + eps)

        def one_round(comb, _):
            comb = comb / (comb.sum(-1, keepdims=True) + eps)
            return comb / (comb.sum(-2, keepdims=True) + eps), None

        return pre, post, jax.lax.scan(one_round, comb, length=19)[0]

    def objective(x, fn, base, scale):
        pre, post, comb = maps(x, fn, base, scale)
        collapsed = jnp.sum(pre[..., None] * x, axis=-2)
        branch = collapsed @ reference["branch_W"] + along(reference["branch_b"], collapsed)
        y = post[..., None] * branch[..., None, :] + comb.mT @ x
        out = {"pre": pre, "post": post, "comb": comb, "collapsed": collapsed, "y": y}
        return jnp.sum(reference["cotangent"] * y), out

    arguments = [jnp.asarray(reference[name]) for name in ("x", "fn", "base", "scale")]
    (_, out), grads = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2, 3), has_aux=True))(
        *arguments
    )
    return out, dict(zip(("x", "fn", "base", "scale"), grads, strict=True))


def test_deepseek_v4_is_ours_on_transposed_logits_but_for_its_eps(shared):
    reference = load(shared, "mhc_hf_deepseek_v4")
    # Their comb[j, k] carries stream j to stream k; our H_res[k, j] does.
    order = np.concatenate([np.arange(2 * N), 2 * N + np.arange(N * N).reshape(N, N).T.ravel()])
    weights = split_columns(reference["base"][order], reference["scale"])
    weights["phi"] = reference["fn"].T[:, order]
    with jax.enable_x64(True):
        with_eps, grads_with_eps = deepseek(reference, 1e-6)
        without, grads_without = deepseek(reference, 0.0)
        y, maps, (grads, _, _, grad_x) = run(reference, weights)

    for name, value in with_eps.items():
        close(value, reference[name])
    for name, value in grads_with_eps.items():
        close(value, reference[f"grad_{name}"])

    close(maps.h_pre, without["pre"])
    close(maps.h_post, without["post"])
    close(maps.h_res.mT, without["comb"])
    close(y, without["y"])
    base, scale = packed(grads)
    close(grad_x, grads_without["x"])
    close(grads["phi"].T, grads_without["fn"][order])
    close(base, grads_without["base"][order])
    close(scale, grads_without["scale"])

    # The size of that eps, against the file itself.
    close(maps.h_res.mT, reference["comb"], atol=2.7e-5)
    close(maps.h_pre, reference["pre"], atol=2.7e-5)
    close(maps.h_post, reference["post"], atol=2.7e-5)


def test_deepseek_v4_head_reads_the_streams_as_we_do(shared):
    reference = load(shared, "mhc_hf_deepseek_v4")
    with jax.enable_x64(True):
        streams = jnp.asarray(reference["y"])
        flat = streams.reshape(*streams.shape[:-2], -1)
        flat = flat / jnp.sqrt(jnp.mean(flat**2, -1, keepdims=True) + 1e-6)
        logits = flat @ reference["head_fn"].T
        logits = logits * along(reference["head_scale"], flat) + along(reference["head_base"], flat)
        head = read_streams(streams, jax.nn.sigmoid(logits) + 1e-6)
    close(head, reference["head_out"])


def test_lucidrains_mixing_is_the_transpose_of_ours(shared):
    """Its maps come from a norm per stream and a shared projection; what they do is comparable."""
    reference = load(shared, "mhc_lucidrains")
    with jax.enable_x64(True):
        x = jnp.asarray(reference["x"])
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        normed = unit * np.sqrt(WIDTH) * along(reference["p_norm_gamma"] + 1, x)
        scale = np.concatenate(
            [reference["p_pre_branch_scale"], np.repeat(reference["p_residual_scale"], N)]
        )
        alpha = normed @ reference["p_dynamic_alpha_fn"][0]
        alpha = alpha * along(scale, alpha) + along(reference["p_static_alpha"], alpha)
        beta = normed @ reference["p_dynamic_beta_fn"]
        beta = beta * along(reference["p_h_post_scale"], beta)
        beta = beta + along(reference["p_static_beta"], beta)
        # A[s, t] carries stream s to stream t, and its rows are exact: the sums over what each
        # input stream gives, the columns of a matrix that multiplies from the left.
        carries = sinkhorn_knopp(alpha[..., 1:], 20)
        maps = HyperMaps(
            h_pre=jax.nn.sigmoid(alpha[..., 0]),
            h_post=2 * jax.nn.sigmoid(beta),
            h_res=carries.mT,
        )
        branch_in = read_streams(x, maps.h_pre)
        branch = branch_in @ reference["branch_W"] + along(reference["branch_b"], branch_in)
        y = write_streams(x, branch, maps.h_post, maps.h_res)
    close(branch_in, reference["branch_in"])
    close(y, reference["y"])
    close(np.asarray(maps.h_res).sum(-2), np.ones((2, 3, N)))
