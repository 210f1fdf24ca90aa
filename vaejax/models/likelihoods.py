"""p(x|z): from the decoder's output to a distrax distribution with batch (B,) and event *X."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import fails, unknown
from vaejax.probability import distrax
from vaejax.types import Array


def _over_x(distribution: distrax.Distribution) -> distrax.Independent:
    event_ndims = len(distribution.batch_shape) - 1
    return distrax.Independent(distribution, reinterpreted_batch_ndims=event_ndims)


def event_log_prob(distribution: Any, x: Array) -> Array:
    """log p(x) of a distribution with batch (B,), event *X.  x: (B, *X) -> (B,) nats.

    Summed by a matrix product: within the loop of a sum, the CPU backend computes every term one by
    one, constants included, and took 30 times as long.
    """
    if not isinstance(distribution, distrax.Independent):
        return distribution.log_prob(x)
    terms = jnp.asarray(distribution.distribution.log_prob(x)).reshape(len(x), -1)
    return jnp.dot(terms, jnp.ones(terms.shape[1]), precision=jax.lax.Precision.HIGHEST)


class Gaussian(nn.Module):
    """N(x; mean, sigma^2 I) with fixed sigma^2 = 1 / (2 mse_weight): squared error times w.

    The mean is `output` of the decoder's output, by its name in `OUTPUTS`.
    """

    mse_weight: float = 1.0
    output: str = "identity"
    learns_scale = False

    @property
    def unit_interval(self) -> bool:
        return self.output == "sigmoid"

    def __call__(self, output: Array) -> distrax.Independent:
        mean = OUTPUTS[self.output](output)
        scale = jnp.full_like(mean, (2.0 * self.mse_weight) ** -0.5)
        return _over_x(distrax.Normal(mean, scale))


class LearnedGaussian(nn.Module):
    """N(x; mean, sigma^2 I), sigma learned and shared by all pixels (arXiv 2006.13202).

    The mean is that of `Gaussian`.
    """

    initial_scale: float = 0.3
    output: str = "identity"
    learns_scale = True

    @property
    def unit_interval(self) -> bool:
        return self.output == "sigmoid"

    @nn.compact
    def __call__(self, output: Array) -> distrax.Independent:
        mean = OUTPUTS[self.output](output)
        start = nn.initializers.constant(jnp.log(self.initial_scale))
        log_scale = self.param("log_scale", start, ())
        # Floor at e^-6: without one, a perfect fit of a flat region drives sigma to zero.  Its
        # gradient is passed straight through, so that a scale below the floor can come back.
        lifted = jnp.maximum(log_scale, -6.0)
        scale = jnp.exp(log_scale + jax.lax.stop_gradient(lifted - log_scale))
        return _over_x(distrax.Normal(mean, jnp.broadcast_to(scale, mean.shape)))


class Bernoulli(nn.Module):
    """Bernoulli with logits; for x in [0, 1] the cross-entropy, no density unless x is binary."""

    unit_interval = True
    learns_scale = False

    def __call__(self, output: Array) -> distrax.Independent:
        return _over_x(distrax.Bernoulli(logits=output))


def gaussian(mse_weight: float, output: str) -> Gaussian:
    """Squared error with weight w = 1 / (2 sigma^2).

    Raises ValueError unless w > 0, and for an `output` that is none of `OUTPUTS`.
    """
    _check_output("gaussian", output)
    return Gaussian(_positive("gaussian.mse_weight", mse_weight), output)


def learned_gaussian(initial_scale: float, output: str) -> LearnedGaussian:
    """Learned sigma, starting at `initial_scale`.

    Raises ValueError unless it is positive, and for an `output` that is none of `OUTPUTS`.
    """
    _check_output("learned_gaussian", output)
    return LearnedGaussian(_positive("learned_gaussian.initial_scale", initial_scale), output)


def _check_output(name: str, output: str) -> None:
    if output not in OUTPUTS:
        raise unknown(f"likelihoods.{name}.output", output, OUTPUTS)


def _positive(name: str, value: float) -> float:
    if fails(value <= 0):
        raise ValueError(f"config.likelihoods.{name} is {value}; it must be positive")
    return value


# How the mean of a Gaussian follows from the decoder's output, which is any real number.
OUTPUTS = {"identity": lambda output: output, "sigmoid": nn.sigmoid}

LIKELIHOODS = {
    "gaussian": gaussian,
    "learned_gaussian": learned_gaussian,
    "bernoulli": Bernoulli,
}
