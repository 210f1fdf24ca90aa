"""MNIST: where codes are drawn from, for variational and for regularized autoencoders.

    vaejax data prepare mnist --from FOLDER
    vaejax table --config configs/table_rae.py --workdir runs/table_rae

Ten methods with fully connected networks (batch norm, 16 latent dimensions, 10 epochs), three
seeds.  Every run is sampled from its prior and from densities fitted to its codes after training;
VAE, beta-TC, CV-VAE and WAE are trained with a decoupled prior, too.  Weights are the published
ones of arXiv 1903.12436, which are for w = 1 (`configs/rae_mnist.py`).  -log p(x|z) has no column:
the noise of 2s-VAE is learned, that of the others is not.  Hours on 2 cores.

The numbers to expect are in `configs/README.md`.
"""

from ml_collections import ConfigDict

from vaejax.tables.plan import default_table

_DETERMINISTIC = "posterior=deterministic"
_NETWORK = (
    "encoder=mlp",
    "decoder=mlp",
    "encoders.mlp.widths=(512, 256)",
    "decoders.mlp.widths=(256, 512)",
    "encoders.mlp.batch_norm=True",
    "decoders.mlp.batch_norm=True",
    "latent_dim=16",
    "likelihoods.gaussian.mse_weight=1.0",
    "likelihoods.gaussian.output=sigmoid",
    "schedule=cosine",
    "num_steps=6000",
)

_METHODS = (
    ("VAE", "regularizer=beta_h", "regularizers.beta_h.beta=0.312"),
    (
        "beta-TC",
        "regularizer=beta_tc",
        "regularizers.beta_tc.alpha=0.312",
        "regularizers.beta_tc.beta=1.248",
        "regularizers.beta_tc.gamma=0.312",
    ),
    (
        "CV-VAE",
        "regularizer=beta_h",
        "regularizers.beta_h.beta=0.039",
        "posterior=fixed_scale",
    ),
    ("2s-VAE", "regularizer=none", "likelihood=learned_gaussian"),
    ("WAE", "regularizer=wae", "regularizers.wae.weight=30.7", _DETERMINISTIC),
    ("RAE-L2", "regularizer=rae_l2", _DETERMINISTIC),
    ("RAE-GP", "regularizer=rae_gp", _DETERMINISTIC),
    ("RAE-SN", "regularizer=rae_sn", _DETERMINISTIC),
    ("RAE", "regularizer=rae", _DETERMINISTIC),
    ("AE", "regularizer=rae", "regularizers.rae.beta=0.0", _DETERMINISTIC),
)


def get_config() -> ConfigDict:
    config = default_table()
    config.title = "Where codes are drawn from"
    config.datasets = (("mnist", "mnist.py", *_NETWORK),)
    config.methods = _METHODS
    config.sources = (
        ("prior",),
        ("gaussian", "density=gaussian"),
        ("gmm-10", "density=gmm", "densities.gmm.num_components=10"),
        ("flow", "density=flow"),
        ("vae", "density=vae"),
    )
    config.without = (
        # A learned prior would let codes without noise shrink to a point.
        *("RAE*-decoupled-*", "AE-decoupled-*", "2s-VAE-decoupled-*"),
        *("*-decoupled-gaussian", "*-decoupled-flow", "*-decoupled-vae"),
        # A second stage belongs to a VAE.
        *("beta-TC-*-vae", "CV-VAE-*-vae", "WAE-*-vae", "RAE*-vae", "AE-*-vae"),
    )
    config.metrics = ("frechet",)
    config.importance_samples = 0
    config.sets = ("random", "reconstructions", "interpolations", "pixel_midpoints", "floor")
    config.samples = 10_000  # as many as the held-out split has
    config.columns = (
        ("FD", "frechet[*, random]"),
        ("FD (rec.)", "frechet[*, reconstructions]"),
        ("FD (interp.)", "frechet[*, interpolations]"),
        ("FD (pixel midpoints)", "frechet[*, pixel_midpoints]"),
    )
    config.differences = (("sampling gap", "FD", "FD (rec.)"),)
    config.compared = ("FD", "FD (interp.)")
    return config
