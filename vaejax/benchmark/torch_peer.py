"""The same training step in eager PyTorch, as its users write it: what ours is measured against.

Same network, data, batches, loss and optimizer, from the same parameters; only the posterior's
noise is its own, unless given.  It computes the loss alone, without the metrics that our step
returns.  PyTorch is no dependency: it is imported where a peer is made.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaejax.benchmark import torch_networks as networks
from vaejax.data.arrays import Dataset
from vaejax.data.batches import batch_indices
from vaejax.models.flows import coupling_masks
from vaejax.objectives.divergences import stratified_log_weights

VERSION = "2.13.0"
_LOG_2_PI = math.log(2 * math.pi)

# What the peer knows, by choice; anything else of a config must be as it is here.
KNOWN = {
    "encoder": networks.ENCODERS,
    "decoder": networks.DECODERS,
    "encoders.mlp.batch_norm": (False,),
    "decoders.mlp.batch_norm": (False,),
    "posterior": ("diagonal_gaussian",),
    "prior": ("standard_normal", "decoupled"),
    "likelihood": ("gaussian",),
    "likelihoods.gaussian.output": ("identity",),
    "regularizer": ("none", "beta_h", "beta_tc"),
    "optimizer": ("adam", "adamw"),
    "observation": ("scaled",),
    "augmentation": ("none",),
    "corruption": ("none",),
    "reduction": ("mean",),
    "clip_norm": (0.0,),
    "ema_decay": (0.0,),
    "regularizers.beta_tc.estimator": ("mss",),
    "regularizers.beta_tc.log_det": (True,),
}


def torch_library() -> Any:
    """The module torch.  Raises ValueError where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(f"PyTorch is not installed: pip install torch=={VERSION}") from error


def check_known(config: ConfigDict) -> None:
    """Raise ValueError where `config` names something that the peer does not know."""
    for key, names in KNOWN.items():
        choice, *row = key.split("s.")
        if row and row[0].split(".")[0] != config[choice]:
            continue
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if value not in names:
            allowed = ", ".join(map(str, names))
            raise ValueError(f"the PyTorch peer knows {key} {allowed}; the config has {value}")


class TorchPeer:
    """A model, its optimizer and the train split, as PyTorch holds them."""

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        params: Mapping[str, Any],
        *,
        channels_last: bool = False,
        device: str = "cpu",
    ):
        """`params`: the parameter tree of our training state, to start from.

        channels_last: the memory format of images and kernels.  Raises ValueError for a config that
        names something the peer does not know, and where PyTorch is not installed.
        """
        check_known(config)
        self.torch = torch_library()
        if device != "cpu":  # what JAX does by default, and what a user in a hurry switches on
            self.torch.set_float32_matmul_precision("high")
            self.torch.backends.cudnn.benchmark = True
        self.scale, self.device = dataset.scale, device
        self._tree: dict[str, Any] = config.to_dict()  # a ConfigDict is slow to read in a step
        self._size, self._regularizer = self._tree["latent_dim"], self._tree["regularizer"]
        self._row = self._tree["regularizers"][self._regularizer]
        self._prior_row = self._tree["priors"][self._tree["prior"]]
        self.num_train, self.steps_done = len(dataset.splits["train"]), 0
        self.num_threads = self.torch.get_num_threads()
        self._format = {}
        if channels_last and len(dataset.x_shape) == 3:
            self._format = {"memory_format": self.torch.channels_last}
        self._train = self._resident(dataset)
        self._build(dataset.x_shape)
        self.assign(params)
        self._optimizer, self._weights = self._optimization(), None

    def _resident(self, dataset: Dataset) -> Any:
        train = self.torch.from_numpy(np.array(dataset.splits["train"])).to(self.device)
        if train.ndim < 4:
            return train
        train = train.permute(0, 3, 1, 2)  # as it lies, that is channels last
        return train if self._format else train.contiguous()

    def _build(self, x_shape: Sequence[int]) -> None:
        nn, tree, size = self.torch.nn, self._tree, self._size
        name = tree["encoder"]
        encoder = networks.encoder_layers(nn, name, tree["encoders"][name], x_shape)
        blank = self.torch.zeros(2, *self._train.shape[1:])
        features = nn.Sequential(*encoder).eval()(blank).shape[1]
        name, row = tree["decoder"], tree["decoders"][tree["decoder"]]
        parts = {
            "encoder": encoder,
            "posterior": [nn.Linear(features, 2 * size)],
            "decoder": networks.decoder_layers(nn, name, row, x_shape, size),
        }
        self._passed = []
        if tree["prior"] == "decoupled":
            flow = self._prior_row
            num_blocks, width, slope = flow["num_blocks"], flow["width"], flow["leaky_slope"]
            masks = coupling_masks(flow["mask"], size, num_blocks, flow["mask_percent"])
            self._passed = [self.torch.tensor(mask, device=self.device).float() for mask in masks]
            for block in range(num_blocks):
                for kind in ("scales", "shifts"):
                    layers = networks.conditioner_layers(nn, size, width, slope)
                    parts[f"{kind}_{block}"] = layers
        modules = {name: nn.Sequential(*layers) for name, layers in parts.items()}
        self.model = nn.ModuleDict(modules).to(self.device, **self._format)

    def layout(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays of a tree like our parameters by the names, and in the layout, of the peer's."""
        flow = params["prior"].get("flow", {})
        named = {**params, **flow}
        z = self.torch.zeros(2, self._size, device=self.device)
        found = {}

        def convert(names: Sequence[str], x: Any) -> None:
            groups = [list(self.model[name]) for name in names]
            trees = [named[name] for name in names]
            arrays = networks.converted(groups, trees, x)
            for name, layers in zip(names, arrays, strict=True):
                for position, leaves in enumerate(layers):
                    found.update({f"{name}.{position}.{leaf}": a for leaf, a in leaves.items()})

        self.model.eval()
        with self.torch.no_grad():
            convert(("encoder", "posterior"), self._train[:2].float())
            for name in ("decoder", *flow):
                convert((name,), z)
        self.model.train()
        return found

    def assign(self, params: Mapping[str, Any]) -> None:
        """Take over the values of our parameters."""
        arrays = self.layout(params)
        with self.torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.torch.from_numpy(np.array(arrays.pop(name))))
        assert not arrays, f"no parameter of the peer takes {sorted(arrays)}"

    def _optimization(self) -> Any:
        torch, name = self.torch, self._tree["optimizer"]
        row = dict(self._tree["optimizers"][name])
        betas = row.pop("b1"), row.pop("b2")
        make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        rate = learning_rate(self._tree, 0)
        return make(self.model.parameters(), rate, betas, eps=1e-8, fused=True, **row)

    def rows(self, indices: np.ndarray) -> Any:
        """The raw train rows at `indices` (B,).  -> (B, C, H, W), or (B, *X) that is no image."""
        return self._train[self.torch.tensor(indices, device=self.device)]

    def loss(self, rows: Any, noise: Any) -> Any:
        """The regularizer's objective, mean over the batch.  rows: (B, *X), noise: (B, D) -> ()."""
        torch, model, tree = self.torch, self.model, self._tree
        x = rows.to(torch.float32) / self.scale
        with self._precision():
            features = model["encoder"](x)
        mean, log_variance = model["posterior"](features.float()).chunk(2, dim=1)
        bound = tree["posteriors"]["diagonal_gaussian"]["log_variance_bound"]
        log_variance = log_variance.clamp(-bound, bound)
        z = mean + torch.exp(0.5 * log_variance) * noise
        weight = tree["likelihoods"]["gaussian"]["mse_weight"]
        with self._precision():
            output = model["decoder"](z)
        error = torch.nn.functional.mse_loss(output.float(), x, reduction="sum") / len(x)
        constant = 0.5 * math.prod(x.shape[1:]) * math.log(math.pi / weight)
        return weight * error + constant + self._regularization(z, mean, log_variance)

    def _precision(self) -> Any:
        """Of encoder and decoder, as in ours: all else is float32."""
        if self._tree.get("compute_dtype", "float32") == "float32":
            return contextlib.nullcontext()
        return self.torch.autocast(self.device, self.torch.bfloat16)

    def _regularization(self, z: Any, mean: Any, log_variance: Any) -> Any:
        if self._regularizer == "beta_tc":
            return self._decomposed_kl(z, mean, log_variance)
        beta = self._row.get("beta", 1.0)
        if not self._passed:
            squares = mean**2 + self.torch.exp(log_variance)
            return beta * 0.5 * (squares - log_variance - 1).sum(dim=1).mean()
        constant = 0.5 * _LOG_2_PI + (0.5 if self._prior_row["kl_constant"] else 0.0)
        negative_entropy = -(0.5 * log_variance + constant).sum(dim=1)
        return beta * (negative_entropy - self.log_prior(z)).mean()

    def _decomposed_kl(self, z: Any, mean: Any, log_variance: Any) -> Any:
        """Minibatch stratified sampling (arXiv 1802.04942, eq. 4 and appendix C.2)."""
        torch, row = self.torch, self._row
        scaled = (z[:, None] - mean) * torch.exp(-0.5 * log_variance)
        log_q_pairs = -0.5 * (scaled**2 + log_variance + _LOG_2_PI)
        log_q = log_q_pairs.diagonal().sum(dim=0)
        weights = self._log_weights(len(z))
        joint = torch.logsumexp(weights + log_q_pairs.sum(dim=2), dim=1)
        product = torch.logsumexp(weights[..., None] + log_q_pairs, dim=1).sum(dim=1)
        mutual_information = row["alpha"] * (log_q - joint)
        total_correlation = row["beta"] * (joint - product)
        dimension_kl = row["gamma"] * (product - self.log_prior(z))
        return (mutual_information + total_correlation + dimension_kl).mean()

    def _log_weights(self, batch_size: int) -> Any:
        """(B, B), computed once."""
        if self._weights is None or len(self._weights) != batch_size:
            rows: Any = np.arange(batch_size)
            weights = np.array(stratified_log_weights(rows, batch_size, self.num_train))
            self._weights = self.torch.from_numpy(weights).to(self.device)
        return self._weights

    def log_prior(self, z: Any) -> Any:
        """log p(z).  z: (B, D) -> (B,) nats."""
        torch, log_det = self.torch, 0.0
        for block, passed in reversed(list(enumerate(self._passed))):
            seen, changed = passed * z, 1 - passed
            log_scale = changed * torch.tanh(self.model[f"scales_{block}"](seen))
            shift = self.model[f"shifts_{block}"](seen)
            if self._prior_row["t_activation"] == "tanh":
                shift = torch.tanh(shift)
            z = seen + changed * (z - shift) * torch.exp(-log_scale)
            log_det = log_det - log_scale.sum(dim=1)
        return -0.5 * (z**2 + _LOG_2_PI).sum(dim=1) + log_det

    def step(self, rows: Any, noise: Any = None) -> Any:
        """One update.  rows: (B, *X) raw, noise: (B, D), drawn where not given -> the loss."""
        if noise is None:
            noise = self.torch.randn(len(rows), self._size, device=self.device)
        if self._tree["schedule"] != "constant":
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(self._tree, self.steps_done)
        self._optimizer.zero_grad()
        loss = self.loss(rows, noise)
        loss.backward()
        self._optimizer.step()
        self.steps_done += 1
        return loss

    def run(self, num_steps: int) -> float:
        """That many steps, on the batches that training takes.  -> seconds."""
        seed, batch_size = self._tree["seed"], self._tree["batch_size"]
        self.torch.set_num_threads(self.num_threads)
        began = time.perf_counter()
        for step in range(self.steps_done, self.steps_done + num_steps):
            self.step(self.rows(batch_indices(seed, step, self.num_train, batch_size)))
        if self.device != "cpu":
            self.torch.cuda.synchronize()
        return time.perf_counter() - began


def learning_rate(tree: Mapping[str, Any], step: int) -> float:
    """The rate of update number `step`, the first being 0.  tree: of a config, as plain dicts."""
    row = tree["schedules"][tree["schedule"]]
    peak = row["learning_rate"]
    if tree["schedule"] == "constant":
        return peak
    if step < row["warmup_steps"]:
        return peak * step / row["warmup_steps"]
    share = (step - row["warmup_steps"]) / (tree["num_steps"] - row["warmup_steps"])
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return peak * ((1 - row["final_fraction"]) * cosine + row["final_fraction"])
