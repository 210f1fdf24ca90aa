"""The whole tree of choices and hyper-parameters, with our defaults."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

# Choice -> table of rows.  A name is allowed when its table has a row for it.
CHOICES = {
    "dataset": "datasets",
    "observation": "observations",
    "augmentation": "augmentations",
    "corruption": "corruptions",
    "encoder": "encoders",
    "posterior": "posteriors",
    "prior": "priors",
    "decoder": "decoders",
    "likelihood": "likelihoods",
    "regularizer": "regularizers",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "recovery": "recoveries",
}


def default_config() -> ConfigDict:
    """The whole tree with our defaults (handwritten digits, beta-TC-dpVAE).  Locked.

    >>> vaejax.default_config().prior
    'decoupled'
    """
    config = ConfigDict(
        {
            "seed": 0,
            "dataset": "digits",
            "data_sha256": "",  # of the content; training fills it in, and refuses another one
            # Fractions of train; without validation, training watches the test split.
            "splits": {"validation": 0.0, "test": 0.1, "seed": 0},
            "observation": "scaled",  # how raw / scale becomes x
            "augmentation": "none",  # of the images trained on
            "corruption": "none",  # of what the encoder sees in training
            "latent_dim": 2,
            "encoder": "mlp",
            "posterior": "diagonal_gaussian",
            "prior": "decoupled",
            "decoder": "mlp",
            "likelihood": "gaussian",
            "regularizer": "beta_tc",
            "optimizer": "adam",
            "schedule": "constant",
            "recovery": "none",  # from numbers that are not finite
            "convolutions": "auto",  # how they are computed: "native", or "matmul"
            "compute_dtype": "float32",  # of encoder and decoder, or "bfloat16"; all else stays
            "placement": "auto",  # of the train split: "resident" on the device, or "streamed"
            "steps_per_dispatch": 0,  # that the devices take without the host; 0: as measured
            "batch_size": 100,
            "num_steps": 10_000,
            "log_every": 100,
            "eval_every": 1_000,
            "checkpoint_every": 1_000,
            "keep_checkpoints": 3,
            "reduction": "mean",  # or "published_sum": the authors' mixed sums and means
            "clip_norm": 0.0,  # global gradient norm, 0 = off
            "ema_decay": 0.0,  # moving average of the parameters used for evaluation, 0 = off
            "tensorboard": False,
            "datasets": _datasets(),
            **_stages(),
            **_parts(),
            "regularizers": _regularizers(),
            **_optimization(),
        }
    )
    return config.lock()


def _optimization() -> dict[str, Any]:
    return {
        "optimizers": {
            "adam": {"b1": 0.9, "b2": 0.999},
            "adamw": {"b1": 0.9, "b2": 0.999, "weight_decay": 1e-4},
            "sgd": {"momentum": 0.9},
        },
        "schedules": {
            "constant": {"learning_rate": 1e-3},
            "cosine": {"learning_rate": 1e-3, "warmup_steps": 0, "final_fraction": 0.0},
        },
        "recoveries": {
            "none": {},
            "skip": {"most": 100},  # steps of a run; one more ends it
            "lower": {"factor": 0.5, "most": 3},  # of all learning rates, from the last checkpoint
        },
    }


def _datasets() -> dict[str, Any]:
    return {
        "digits": {},
        "two_moons": {"num_train": 10_000, "num_test": 2_000, "noise": 0.05, "seed": 0},
        "swiss_roll": {"num_train": 10_000, "num_test": 2_000, "noise": 0.1, "seed": 0},
        "shapes64": {},
        "mnist": {},
        "fashion_mnist": {},
        "binarized_mnist": {},
        "svhn_cropped": {},
        "cifar10": {},
        "celeb_a": {"crop": 140},  # pixels of the center square that is resized to 64x64
        "dsprites": {},
        "shapes3d": {},
        "arrays": {"path": "", "scale": 0.0},  # .npy or .npz; scale 0: 255 for uint8, else 1
        "image_folder": {
            "path": "",
            "size": 0,  # pixels of a side; 0: as they are, all alike
            "crop": True,  # the largest centered square; False: squeezed
            "channels": 3,  # or 1
            "skip_unreadable": False,
        },
        "tfds": {"name": "", "data_dir": "", "x": "image", "label": "label", "scale": 0.0},
        "stand_in": {"x_shape": (32, 32, 3), "num_train": 512, "num_test": 128},
    }


def _stages() -> dict[str, Any]:
    """Rows of what happens to raw rows inside the jitted step."""
    return {
        "observations": {
            "scaled": {},
            "bernoulli": {},  # drawn anew each time: dynamic binarization
            "threshold": {"level": 0.5},
            "dequantized": {},
        },
        "augmentations": {
            "none": {},
            "published": {
                "probability": 0.5,
                "jitter": 0.5,
                "hue": 0.25,
                "degrees": 5.0,
                "translate": 0.1,
                "scale": 0.1,
            },
        },
        "corruptions": {
            "none": {},
            "gaussian": {"scale": 0.1},
            "masking": {"fraction": 0.25},
            "salt_and_pepper": {"fraction": 0.25},
        },
    }


def _parts() -> dict[str, Any]:
    """Rows of the model's parts; spec of the architectures: arXiv 1911.10506, appendix."""
    return {
        "encoders": {
            "mlp": {"widths": (100, 50), "leaky_slope": 0.01, "batch_norm": False},
            "mnist": {},
            "mnist_factor": {},
            "svhn": {},
            "celeba": {"leaky_slope": 0.01},
            "conv": {"channels": (32, 64, 128), "width": 256},  # one halving per entry
            "rae": {"channels": (128, 256, 512, 1024), "kernel": 4},  # one halving per entry
        },
        "posteriors": {
            "diagonal_gaussian": {"log_variance_bound": 20.0},
            "fixed_scale": {"scale": 0.7},
            "deterministic": {"activation": "none"},  # or "relu"
        },
        "priors": {
            "standard_normal": {},
            "decoupled": {
                "num_blocks": 6,
                "mask": "alternating",  # or "half": the first mask_percent %, then the others
                "mask_percent": 50.0,
                "width": 64,
                "leaky_slope": 0.01,
                "t_activation": "tanh",  # or "none"
                "zero_init": False,
                "kl_constant": True,  # False drops -D/2 from the KL, as the authors' code does
            },
        },
        "decoders": {
            "mlp": {"widths": (50, 100), "leaky_slope": 0.01, "batch_norm": False},
            "mnist": {},
            "mnist_factor": {},
            "svhn": {},
            "celeba": {"leaky_slope": 0.01},
            "conv": {"channels": (32, 64, 128), "width": 256},  # in the encoder's order
            "rae": {"channels": (256, 512, 1024), "kernel": 4},  # in the encoder's order
        },
        "likelihoods": {
            "gaussian": {
                "mse_weight": 1.0,  # w = 1 / (2 sigma^2)
                "output": "identity",  # of the decoder's output, or "sigmoid", for the mean
            },
            "learned_gaussian": {"initial_scale": 0.3, "output": "identity"},
            "bernoulli": {},
        },
    }


def _regularizers() -> dict[str, Any]:
    return {
        "none": {},
        "beta_h": {"beta": 5.0},
        "beta_b": {"gamma": 15.0, "capacity": 25.0, "capacity_steps": 100_000},
        "beta_tc": {
            "alpha": 1.0,
            "beta": 4.0,
            "gamma": 1.0,
            "estimator": "mss",  # minibatch stratified; "mws", "mss_published"
            "log_det": True,  # False omits log|det dg/dz|, as the authors' code does
        },
        "factor": {
            "gamma": 10.0,
            "critic_width": 1_000,
            "critic_depth": 5,
            "critic_learning_rate": 1e-4,
            "critic_b1": 0.9,
            "critic_b2": 0.999,
        },
        "info": {"alpha": 0.0, "lambda_": 11.0, "bandwidth": "published", "unbiased": False},
        "annealed": {"beta": 1.0, "start": 0.0, "steps": 10_000, "shape": "linear"},  # "sigmoid"
        "free_bits": {"beta": 1.0, "nats": 0.1},
        **_autoencoders(),
    }


def _autoencoders() -> dict[str, Any]:
    """Rows of regularized autoencoders; weights as for w = 1 of the Gaussian likelihood."""
    jacobian = {"estimator": "hutchinson", "probes": 1}  # or "exact"
    return {
        "rae": {"beta": 0.064},
        "rae_l2": {"beta": 0.0128, "weight": 1e-4},
        "rae_gp": {
            "beta": 0.0128,
            "weight": 1e-3,
            "variant": "jacobian",  # of the decoder; "squared_output", "input_gradient"
            **jacobian,
        },
        "rae_sn": {"beta": 1.15, "encoder": False},
        "sparse": {"beta": 0.0, "weight": 0.1, "decoder_l2_weight": 1e-4},
        "contractive": {"beta": 0.0, "weight": 0.1, **jacobian, "decoder_l2_weight": 1e-4},
        "wae": {"weight": 10.0, "kernel": "imq", "unbiased": True},  # "gaussian", "gaussian_median"
    }
