"""`launch/docs/conversion.md`: losses of other projects are ours at the weights that it names."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.scipy.special import logsumexp

from vaejax.config import default_config
from vaejax.models.vae import initial_variables
from vaejax.objectives.costs import decomposed_kl, kl, reconstruction
from vaejax.objectives.objective import loss_of
from vaejax.objectives.regularizers import make_method
from vaejax.types import Batch

PAGE = (Path(__file__).parents[1] / "launch" / "docs" / "conversion.md").read_text()
X_SHAPE, B, D, N, STEP = (2, 3, 1), 5, 2, 50, 300
P, SIZES = 6, {"P": 6, "D": D, "B": B, "N": N}
PI2, RNG = np.log(2 * np.pi), np.random.default_rng(0)
X = RNG.uniform(size=(B, *X_SHAPE)).astype("f4")


def rows():
    """(there, its loss, here, ours), as the page has them."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in row] for row in cells if len(row) == 4]
    return [row for row in rows if row[0] != "there" and row[0][0] != "-"]


# What stands in the last column: a factor and a constant.
OURS = {
    "theirs": (1, 0),
    "theirs + P/2 log 2π": (1, P / 2 * PI2),
    "theirs + P/2 log π": (1, P / 2 * np.log(np.pi)),
    "theirs + P/2 log(π/255)": (1, P / 2 * np.log(np.pi / 255)),
    "theirs + P/2 log π + 5 B": (1, P / 2 * np.log(np.pi) + 5 * B),
    "theirs + P/2 log π + 0.02 D/2 log 2π": (1, P / 2 * np.log(np.pi) + 0.02 * D / 2 * PI2),
    "P theirs + P/2 log π": (P, P / 2 * np.log(np.pi)),
    "P theirs + P/2 log π + P/2 5e-4 2 log 2π": (P, P / 2 * (np.log(np.pi) + 5e-4 * 2 * PI2)),
    "theirs + B P/2 log π": (1, B * P / 2 * np.log(np.pi)),
    "theirs + B P/2 log(π/10)": (1, B * P / 2 * np.log(np.pi / 10)),
    "theirs + 5 (D - 1) log(B N)": (1, 5 * (D - 1) * np.log(B * N)),
}


def error(a, mean=None):
    return jnp.sum((a.x - (a.output if mean is None else mean)) ** 2, axis=1)  # (B,)


def entropy(a):
    return -jnp.sum(a.x * jnp.log(a.sigmoid) + (1 - a.x) * jnp.log(1 - a.sigmoid), axis=1)


def closed_kl(a):
    return -0.5 * jnp.sum(1 + a.log_var - a.mean**2 - jnp.exp(a.log_var), axis=1)


def shifted_weights():
    """The matrix of the public implementations: every (B)th entry of the flat one is 1/N."""
    flat, stratum = np.full(B * B, 1 / (B - 1)), (N - B + 1) / (N * (B - 1))
    flat[::B], flat[1::B] = 1 / N, stratum
    flat[(B - 2) * B] = stratum
    return np.log(flat.reshape(B, B))


def parts(a, weights):
    """MI, TC and DW; weights: (B, B) logarithms."""

    def log_normal(z, mean, log_var):
        return -0.5 * (PI2 + log_var + (z - mean) ** 2 * jnp.exp(-log_var))

    pairs = log_normal(a.z[:, None], a.mean[None], a.log_var[None])
    joint = logsumexp(weights + pairs.sum(2), axis=1)
    product = logsumexp(weights[..., None] + pairs, axis=1).sum(1)
    own, prior = log_normal(a.z, a.mean, a.log_var).sum(1), log_normal(a.z, 0.0, 0.0).sum(1)
    return (own - joint).mean(), (joint - product).mean(), (product - prior).mean()


def total(a, weights, beta, gamma=1):
    mi, tc, dw = parts(a, weights)
    return mi + beta * tc + gamma * dw


def mmd(a, kernel):
    """The unbiased one, of the codes and as many draws of the prior."""
    distances = [jnp.sum((p[:, None] - q[None]) ** 2, axis=2) for p, q in PAIRS(a)]
    within = [(kernel(d).sum() - B * kernel(0.0)) / (B * (B - 1)) for d in distances[:2]]
    return within[0] + within[1] - 2 * kernel(distances[2]).mean()


def PAIRS(a):
    return (a.z, a.z), (a.u, a.u), (a.z, a.u)


def rbf(squared):
    return jnp.exp(-squared / (2 * D))


def imq(squared):
    return sum(s * 2 * D / (s * 2 * D + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def early_mmd(a):
    """With a diagonal that is taken from every row, and divided by B - 1."""
    z, u, cross = (rbf(jnp.sum((p[:, None] - q[None]) ** 2, axis=2)) for p, q in PAIRS(a))
    return ((z - 1).sum() + (u - 1).sum()) / (B - 1) - 2 * cross.sum() / B


def decoupled_kl(a):
    """-1/2 sum log sigma^2 + 1/2 |g(z)|^2 - log|det dg/dz|, by the Jacobian of g."""
    (a11, a12), (a21, a22) = jnp.moveaxis(jax.vmap(jax.jacfwd(a.to_base))(a.z), 0, -1)
    log_det = jnp.log(jnp.abs(a11 * a22 - a12 * a21))
    return -0.5 * a.log_var.sum(1) + 0.5 * jnp.sum(a.to_base(a.z) ** 2, axis=1) - log_det


def capacity(a):
    return 100 * jnp.abs(closed_kl(a).mean() - 25 * STEP / 1000)


MWS, MSS = np.full((B, B), -np.log(B * N)), shifted_weights()
SINGLE = np.zeros((B, B))
# The first two columns, as the page has them, and the second in plain arrays.
THERE = {
    ('`mse_loss` and a KL, both `"sum"`', "Σ (‖x - x̂‖² + KL)"): lambda a: (
        error(a) + closed_kl(a)
    ).sum(),
    ('`mse_loss` and a KL, both `"mean"`', "E (‖x - x̂‖²/P + KL/D)"): lambda a: (
        error(a) / P + closed_kl(a) / D
    ).mean(),
    ('`binary_cross_entropy` and a KL, both `"sum"`', "Σ (BCE + KL)"): lambda a: (
        entropy(a) + closed_kl(a)
    ).sum(),
    ("`VAE`, mse", "E (½‖x - x̂‖² + KL)"): lambda a: (error(a) / 2 + closed_kl(a)).mean(),
    ("`VAE`, mse, in early versions", "E (‖x - x̂‖² + KL)"): lambda a: (
        error(a) + closed_kl(a)
    ).mean(),
    ("`VAE`, bce", "E (BCE + KL)"): lambda a: (entropy(a) + closed_kl(a)).mean(),
    ("`BetaVAE`, beta 4", "E (½‖x - x̂‖² + 4 KL)"): lambda a: (
        error(a) / 2 + 4 * closed_kl(a)
    ).mean(),
    ("`BetaTCVAE`, beta 6, `use_mss=False`", "E (½‖x - x̂‖²) + MI + 6 TC + DW"): lambda a: (
        error(a).mean() / 2 + total(a, MWS, 6)
    ),
    ("`BetaTCVAE`, beta 6, `use_mss=True`", "the same, its matrix of weights"): lambda a: (
        error(a).mean() / 2 + total(a, MSS, 6)
    ),
    ("`INFOVAE_MMD`, rbf, alpha 0.5, lbd 3", "E (½‖x - x̂‖² + 0.5 KL) + 2.5 MMD²"): lambda a: (
        (error(a) / 2 + 0.5 * closed_kl(a)).mean() + 2.5 * mmd(a, rbf)
    ),
    (
        "`INFOVAE_MMD`, the same, in early versions",
        "E (‖x - x̂‖² + 0.5 KL) + 2.5 (B MMD² - 2 B)",
    ): lambda a: (error(a) + 0.5 * closed_kl(a)).mean() + 2.5 * early_mmd(a),
    ("`WAE_MMD`, imq, weight 3", "E ‖x - x̂‖² + 3 MMD²"): lambda a: (
        error(a).mean() + 3 * mmd(a, imq)
    ),
    ("`RAE_L2`, embedding 0.02, no decay", "E (‖x - x̂‖² + 0.01‖z‖²)"): lambda a: (
        error(a) + 0.01 * jnp.sum(a.z**2, axis=1)
    ).mean(),
    ("`betaH`, beta 4, bernoulli", "E (BCE + 4 KL)"): lambda a: (
        entropy(a) + 4 * closed_kl(a)
    ).mean(),
    ("`betaH`, beta 4, gaussian", "E (255 ‖x - x̂‖² + 4 KL)"): lambda a: (
        255 * error(a) + 4 * closed_kl(a)
    ).mean(),
    ("`betaB`, gamma 100, C 25 in 1,000 steps", "E BCE + 100 abs(E KL - C)"): lambda a: (
        entropy(a).mean() + capacity(a)
    ),
    ("`btcvae`, (1, 6, 1), `--no-mss`", "E BCE + MI + 6 TC + DW"): lambda a: (
        entropy(a).mean() + total(a, MWS, 6)
    ),
    ("`btcvae`, (1, 6, 1)", "the same, its matrix of weights"): lambda a: (
        entropy(a).mean() + total(a, MSS, 6)
    ),
    ("`VanillaVAE`, kld_weight 0.00025", "E (‖x - x̂‖²/P + 0.00025 KL)"): lambda a: (
        error(a) / P + 0.00025 * closed_kl(a)
    ).mean(),
    ("`vae`, `l2_loss`, beta 4", "E (‖x - x̂‖² + 4 KL)"): lambda a: (
        error(a, a.sigmoid) + 4 * closed_kl(a)
    ).mean(),
    ("`annealed_vae`, gamma 100, c_max 25 in 1,000 steps", "E BCE + 100 abs(E KL - C)"): lambda a: (
        entropy(a).mean() + capacity(a)
    ),
    ("`factor_vae`, gamma 10", "E (BCE + KL) + 10 E (logit 0 - logit 1)"): lambda a: (
        entropy(a) + closed_kl(a) + 10 * (a.logits[:, 0] - a.logits[:, 1])
    ).mean(),
    ("`beta_tc_vae`, beta 6", "E (BCE + KL) + 5 TC, TC without constant"): lambda a: (
        (entropy(a) + closed_kl(a)).mean() + 5 * parts(a, SINGLE)[1]
    ),
    ("dpVAE: `vanilla`, w = 10", "Σ (10 ‖x - x̂‖² + KL)"): lambda a: (
        10 * error(a) + closed_kl(a)
    ).sum(),
    (
        "dpVAE: `vanilla` with its prior, w = 10",
        "Σ (10 ‖x - x̂‖² - ½ Σ log σ² + ½ ‖g(z)‖² - log det dg/dz)",
    ): lambda a: (10 * error(a) + decoupled_kl(a)).sum(),
    ("dpVAE: `betatc`, (1, 4, 15), w = 10", "Σ 10 ‖x - x̂‖² + MI + 4 TC + 15 DW"): lambda a: (
        (10 * error(a)).sum() + total(a, MSS, 4, 15)
    ),
    ("RAE: `rae`, weight of the norm 5e-4", "E (‖x - x̂‖²/P + 5e-4 ‖z‖²/D)"): lambda a: (
        error(a, a.sigmoid) / P + 5e-4 * jnp.sum(a.z**2, axis=1) / D
    ).mean(),
}
COMPOSED = {
    '`loss_of(reconstruction, kl(), decomposed_kl(0, 5, 0, N, "mws"))`': (
        "likelihood=bernoulli",
        loss_of(reconstruction, kl(), decomposed_kl(0, 5, 0, N, "mws")),
    )
}


def method(here):
    """(model, loss) of the third column."""
    config = default_config().unlock()
    config.update({"prior": "standard_normal", "regularizer": "none", "batch_size": B})
    config.update({"latent_dim": D, "num_steps": 1})
    config.encoders.mlp.widths = config.decoders.mlp.widths = (8,)
    config.priors.decoupled.update({"num_blocks": 2, "width": 8})
    config.regularizers.factor.update({"critic_width": 8, "critic_depth": 1})
    settings, loss = COMPOSED.get(here, (here.strip("`"), None))
    for setting in settings.split():
        name, value = setting.split("=")
        if not isinstance(functools.reduce(getattr, name.split("."), config), str):
            value = eval(value, {}, SIZES)  # a number, or an expression of P, D, B and N
        config.update_from_flattened_dict({name: value})
    model, objective = make_method(config, X_SHAPE, N)
    return model, loss or objective.players["vae"].loss


def arrays(model, batch, places):
    """What the formulas of other projects are written in, each example's numbers flat."""
    code = model.encode(batch.x, batch.keys)
    output = model.output(code.z).reshape(B, -1)
    return SimpleNamespace(
        x=batch.x.reshape(B, -1),
        output=output,
        sigmoid=1 / (1 + jnp.exp(-output)),
        z=code.z,
        mean=code.mean,
        log_var=None if code.q is None else 2 * jnp.log(code.q.distribution.scale),
        u=model.prior.sample(jax.random.fold_in(batch.key, places), B),
        logits=None if model.critic is None else model.critic(code.z),
        to_base=model.prior.to_base,
    )


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():  # every program here runs once
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_debug_key_reuse", False)  # the two losses are to have the same draws
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_debug_key_reuse", True)


def test_the_page_has_every_formula_and_no_other():
    assert [(row[0], row[1]) for row in rows()] == [*THERE]


@pytest.mark.parametrize(("there", "its_loss", "here", "ours"), rows())
def test_losses_and_gradients_are_equal_at_the_weights_of_the_page(there, its_loss, here, ours):
    model, loss = method(here)
    params, _ = initial_variables(model, jax.random.key(3), X_SHAPE)
    batch = Batch(jnp.asarray(X), jax.random.split(jax.random.key(1), B), jax.random.key(2))
    factor, constant = OURS[ours]
    places = 1 if "wae" in here else 2  # of the cost that draws from the prior, among all costs

    def mine(params):
        return nn.apply(loss, model)({"params": params}, batch, jnp.asarray(STEP))[0]

    def other(params):
        found = nn.apply(lambda model: arrays(model, batch, places), model)
        return THERE[there, its_loss](found({"params": params}))

    compiled = jax.jit if "decoupled" in here else lambda f: f  # many operations of its own
    (value, grads), (theirs, others) = (
        compiled(jax.value_and_grad(f))(params) for f in (mine, other)
    )
    np.testing.assert_allclose(value, factor * theirs + constant, rtol=2e-5, atol=2e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 1e-3
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, factor * two, rtol=2e-3, atol=1e-4 * (1 + abs(factor)))
