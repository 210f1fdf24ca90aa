"""Every contract of the code base on one page.

Letters used in shapes:

    B   examples in a batch (on one device, unless "global" is said)
    D   latent dimensions
    N   examples in a data set
    S   samples per example
    *X  event shape of one example, e.g. (28, 28, 1) or (2,)

Everything is in nats, positive = cost, summed over dimensions per example and averaged over the
batch once, in the cost function.  beta = 1 is always the ELBO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import linen as nn

Array = jax.Array
Device = Any  # jax.Device, which type checkers do not take for a type
Metrics = Mapping[str, Array]

# Top-level groups of the parameter tree, in the order of the paper.
GENERATIVE = ("encoder", "posterior", "prior", "decoder", "likelihood")
GROUPS = (*GENERATIVE, "critic")


class Batch(NamedTuple):
    """What one training step sees, on one device."""

    x: Array  # (B, *X) floats
    keys: Array  # (B,) typed keys, one per example, whatever the device count
    key: Array  # () one key, equal on all devices, for batch-level draws
    pair: Array | None = None  # (B, *X) a second, independent batch (arXiv 1802.05983, Alg. 2)
    corrupted: Array | None = None  # (B, *X) what the encoder sees instead of x


class Code(NamedTuple):
    """What q(z|x) hands on."""

    z: Array  # (B, D) a reparameterized sample, or the deterministic code
    log_q: Array  # (B,) log q(z|x) at that sample; 0 for a deterministic code
    mean: Array  # (B, D) the center of q(z|x), which needs no draw
    q: Any = None  # distrax.Independent, batch (B,), event (D,): the closed form, if there is one
    costs: Mapping[str, Array] = {}  # (B,) each: what the posterior itself adds


class Terms(NamedTuple):
    """One Monte Carlo pass x -> q(z|x) -> z -> p(x|z)."""

    reconstruction: Array  # (B,) -log p(x|z), all constants included
    kl: Array  # (B,) KL(q(z|x) || p(z)); -log p(z) for a deterministic code
    code: Code
    input: Array  # (B, *X) what the encoder saw
    log_p: Array  # (B,) log p(z) at the code's sample


class Posterior(Protocol):
    """Features of x -> Code.  `has_density` says whether log q(z|x) exists."""

    has_density: bool

    def __call__(self, features: Array, keys: Array) -> Code: ...


class Prior(Protocol):
    """A density over codes.

    factorizes: whether p(z) is a product over dimensions.  is_learned: whether it has parameters.
    has_normal_base: whether generation space has N(0, I).
    """

    factorizes: bool
    is_learned: bool
    has_normal_base: bool

    def log_prob(self, z: Array) -> Array:
        """z: (..., D) -> (...) nats."""
        ...

    def sample(self, key: Array, num_samples: int) -> Array:
        """-> (num_samples, D)."""
        ...

    def kl(self, code: Code, log_p: Array) -> Array:
        """KL(q(z|x) || p(z)).  -> (B,) nats; one Monte Carlo draw where no closed form exists.

        log_p: (B,), this prior's `log_prob(code.z)`, which need not be evaluated twice.
        """
        ...

    def kl_blocks(self, code: Code, log_p: Array) -> Array:
        """The same of the dimensions that p(z) factors into, (B, D), else of all in one, (B, 1)."""
        ...

    def base_log_prob(self, z0: Array) -> Array:
        """Density of the base, in generation space.  z0: (..., D) -> (...) nats."""
        ...

    def to_base(self, z: Array) -> Array:
        """Representation -> generation space.  (..., D) -> (..., D); identity unless a flow."""
        ...

    def from_base(self, z0: Array) -> Array:
        """Generation -> representation space.  (..., D) -> (..., D)."""
        ...


class Likelihood(Protocol):
    """Decoder output -> distrax distribution over x, batch (B,), event *X.

    unit_interval: whether x must lie in [0, 1].  learns_scale: whether its noise is learned.
    """

    unit_interval: bool
    learns_scale: bool

    def __call__(self, output: Array) -> Any: ...


# A cost is `(model, terms, key, step) -> {name: scalar}`, weighted, averaged over the batch.
Cost = Callable[[Any, Terms, Array, Array], Metrics]
# A loss is `(bound model, batch, step) -> (scalar, metrics)`.
LossFn = Callable[[Any, Batch, Array], tuple[Array, Metrics]]


class Player(NamedTuple):
    """One optimizer, the parameter groups it updates, and the loss it lowers.

    owns: of `vaejax.types.GROUPS`; `GENERATIVE` are all but the critic.  loss: of `loss_of`, or any
    `(bound model, batch, step) -> (scalar, metrics)`.  tx: an optax transformation.

    >>> loss = vaejax.loss_of(vaejax.reconstruction, vaejax.kl())
    >>> players = {"vae": vaejax.Player(vaejax.types.GENERATIVE, loss, optax.adam(1e-3))}
    """

    owns: tuple[str, ...]
    loss: LossFn
    tx: optax.GradientTransformation


class Objective(NamedTuple):
    """A method: its players, the critic they need, and what it asks of the other parts."""

    players: Mapping[str, Player]
    critic: nn.Module | None = None
    check: Callable[[Any], None] = lambda model: None  # raises ValueError, or warns
    spectral_norm: tuple[str, ...] = ()  # trunks whose kernels are divided by their spectral norm
