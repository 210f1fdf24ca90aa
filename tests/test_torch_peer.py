"""The step in PyTorch is the same step: loss, gradients and the update agree with ours."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import one_line

from vaejax.benchmark.torch_peer import TorchPeer, check_known, learning_rate
from vaejax.config import load_config
from vaejax.data.batches import batch_indices
from vaejax.data.sources import dataset_from, make_transform
from vaejax.objectives.optimizers import make_optimizer
from vaejax.objectives.regularizers import make_method
from vaejax.training.state import TRAIN, initial_state, stream_key
from vaejax.training.step import gradients, make_batch, make_train_step

# Every pair of the cheapest network, and every architecture with both priors; the last is
# `channels_last`.
CASES = [
    *(
        ("two_moons", prior, regularizer, False)
        for prior in ("standard_normal", "decoupled")
        for regularizer in ("none", "beta_h", "beta_tc")
    ),
    ("digits", "decoupled", "beta_tc", False),
    ("mnist", "standard_normal", "beta_h", True),
    ("mnist", "decoupled", "beta_tc", False),
    ("svhn", "standard_normal", "beta_tc", False),
    ("svhn", "decoupled", "none", True),
    ("celeba", "standard_normal", "none", False),
    ("celeba", "decoupled", "beta_tc", False),
]
BATCH = 6


def config_of(name, prior="decoupled", regularizer="beta_tc"):
    config = load_config(f"configs/tiny.py:{name}").unlock()
    config.prior, config.regularizer, config.batch_size = prior, regularizer, BATCH
    # Not square, so that no axis passes for another; small maps, but of more than one pixel.
    shapes = {"mnist": (28, 24, 1), "svhn": (20, 24, 3), "celeba": (64, 32, 3)}
    config.datasets.stand_in.x_shape = shapes.get(name, (8, 8, 1))
    return config


def setting(config):
    """Ours at the first step: model, players, state, rows, and the noise of their codes."""
    dataset = dataset_from(config)
    model, objective = make_method(config, dataset.x_shape, len(dataset.splits["train"]))
    state = initial_state(model, objective.players, 0, dataset.x_shape)
    transform = make_transform(config, dataset, False)
    indices = batch_indices(config.seed, 0, len(dataset.splits["train"]), BATCH)
    rows = jnp.asarray(dataset.splits["train"][indices])
    root = jax.random.fold_in(stream_key(config.seed, TRAIN), 0)
    batch = make_batch(rows, None, transform=transform, root=root, step=0)
    with jax.debug_key_reuse(False):  # the model is to draw the same
        noise = jax.vmap(lambda key: jax.random.normal(key, (config.latent_dim,)))(batch.keys)
    step = make_train_step(model, objective.players, transform=transform, seed=config.seed)
    return dataset, model, objective, state, batch, rows, indices, np.array(noise), step


def agrees(peer, found, expected, tolerance):
    """Arrays of the peer, by parameter, against ours in its layout, relative to their layer.

    Of their layer: a bias before a batch norm has no gradient but rounding errors.
    """
    assert set(found) == set(expected)
    for name, array in found.items():
        kernel = f"{name.rpartition('.')[0]}.weight"
        largest = max(np.abs(expected[name]).max(), np.abs(expected[kernel]).max())
        difference = np.abs(array - expected[name]).max()
        assert difference <= tolerance * largest, (name, difference, largest)


@pytest.mark.filterwarnings("ignore")  # of torch, about itself
@pytest.mark.parametrize(("name", "prior", "regularizer", "channels_last"), CASES)
def test_loss_gradients_and_update_agree_with_ours(name, prior, regularizer, channels_last):
    torch = pytest.importorskip("torch")
    config = config_of(name, prior, regularizer)
    dataset, model, objective, state, batch, rows, indices, noise, step = setting(config)
    peer = TorchPeer(config, dataset, state.params, channels_last=channels_last)

    @jax.jit
    def ours(state, rows, batch):
        grads, _, _ = gradients(model, objective.players["vae"], state, batch)
        return grads, *step(state, rows)

    with jax.debug_key_reuse(False):
        grads, updated, metrics = ours(state, rows, batch)

    loss = peer.step(peer.rows(indices), torch.from_numpy(noise))

    np.testing.assert_allclose(float(loss.detach()), metrics["loss"], rtol=3e-6)
    found = {name: p.grad.numpy() for name, p in peer.model.named_parameters()}
    expected = peer.layout({**state.params, **grads})
    agrees(peer, found, expected, 2e-5)
    # Adam's first update is the sign of the gradient: compare where rounding cannot turn it.
    before, after = peer.layout(state.params), peer.layout(updated.params)
    moved = 0
    for name_, parameter in peer.model.named_parameters():
        clear = np.abs(expected[name_]) > 1e-2 * np.abs(expected[name_]).max()
        kernel = np.abs(expected[f"{name_.rpartition('.')[0]}.weight"]).max()
        if np.abs(expected[name_]).max() < 1e-4 * kernel:
            continue
        update = parameter.detach().numpy() - before[name_]
        np.testing.assert_allclose(
            update[clear], (after[name_] - before[name_])[clear], rtol=2e-3, atol=1e-7
        )
        moved += clear.sum()
    assert moved > 80


@pytest.mark.filterwarnings("ignore")
def test_without_noise_given_the_peer_draws_its_own_and_learns():
    pytest.importorskip("torch")
    config = config_of("two_moons")
    dataset, _, _, state, *_ = setting(config)
    peer = TorchPeer(config, dataset, state.params)
    rows = peer.rows(np.arange(BATCH))
    losses = [float(peer.step(rows).detach()) for _ in range(60)]
    assert len(set(losses)) == 60
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates_are_those_of_our_schedules(schedule):
    config = load_config("configs/two_moons.py").unlock()
    config.schedule, config.optimizer, config.num_steps = schedule, "sgd", 9
    config.schedules.cosine.update({"warmup_steps": 3, "final_fraction": 0.1})
    config.optimizers.sgd.momentum = 0.0
    tx = make_optimizer(config)
    state, ours = tx.init(jnp.ones(())), []
    for _ in range(11):
        update, state = tx.update(jnp.ones(()), state)
        ours.append(-float(update))
    tree = config.to_dict()
    np.testing.assert_allclose([learning_rate(tree, k) for k in range(11)], ours, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder", "conv"),
        ("likelihood", "bernoulli"),
        ("regularizer", "factor"),
        ("optimizer", "sgd"),
        ("clip_norm", 1.0),
        ("reduction", "published_sum"),
        ("regularizers.beta_tc.estimator", "mws"),
        ("decoders.mlp.batch_norm", True),
    ],
)
def test_what_the_peer_does_not_know_is_refused(key, value):
    config = load_config("configs/digits.py").unlock()
    check_known(config)
    config.update_from_flattened_dict({key: value})
    with one_line(rf"PyTorch peer knows {key} .*{value}"):
        check_known(config)


def test_estimator_of_another_regularizer_does_not_matter():
    config = load_config("configs/digits.py").unlock()
    config.regularizer, config.regularizers.beta_tc.estimator = "none", "mws"
    check_known(config)


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = config_of("two_moons")
    with one_line("pip install torch=="):
        TorchPeer(config, dataset_from(config), {})
