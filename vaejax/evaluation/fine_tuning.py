"""What the encoder is worth to a classifier with few labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vaejax.data.batches import batch_indices
from vaejax.evaluation.classification import classification_step
from vaejax.evaluation.rows import Row, mean_row
from vaejax.evaluation.subject import Subject
from vaejax.models.vae import VAE
from vaejax.training.state import observed
from vaejax.training.validation import num_at_once, over_split
from vaejax.types import Array

NUM_LABELS, _DRAWS = 100, 3
_STEPS, _RATE = 500, 1e-3  # fixed, of Adam: nothing is selected
_PASSES, _BATCH = 50, 100  # batches that the statistics of a random start are taken of


def few_labels(subject: Subject) -> dict[str, Row]:
    """Accuracy with 100 labels: of the encoder fine-tuned, the same from a random start, of pixels.

    Raises ValueError where there are no labels, or not enough of a class.
    """
    if lack := no_labels(subject):
        raise ValueError(lack)
    split, labels = subject.protocol.split, subject.dataset.labels["train"]
    accuracies: dict[str, list[float]] = {"fine-tuned": [], "random start": [], "pixels": []}
    tuned = _make_tuned(subject)
    for draw in range(_DRAWS):
        chosen = labeled_examples(labels, NUM_LABELS, draw)
        accuracies["fine-tuned"].append(tuned(subject.variables, chosen))
        accuracies["random start"].append(tuned(_random_start(subject, draw), chosen))
        accuracies["pixels"].append(_of_pixels(subject, chosen))
    where = f"{NUM_LABELS} labels of the train split, {len(np.unique(labels))} classes evenly, "
    where += f"{_DRAWS} draws, the same for all models; {split} split, all "
    where += f"{len(subject.dataset.labels[split])} examples; standard error of draws"
    network = f"encoder, mean of q(z|x) and a linear layer, {_STEPS} steps of Adam ({_RATE:g}) on "
    network += f"all {NUM_LABELS}, the last one taken; statistics of batch norm fixed"
    hows = {
        "fine-tuned": network,
        "random start": f"{network} to those of unlabeled training data",
        "pixels": "logistic regression (L2, C = 1) on raw / scale",
    }
    return {
        f"accuracy[{name}, {NUM_LABELS} labels]": mean_row(
            np.array(values), f"{hows[name]}; {where}; seed {subject.seed}", unit="fraction"
        )
        | {"draws": values}
        for name, values in accuracies.items()
    }


def no_labels(subject: Subject) -> str:
    """What the data lack for `few_labels`; "" where nothing."""
    dataset, split = subject.dataset, subject.protocol.split
    if missing := [each for each in dict.fromkeys(("train", split)) if each not in dataset.labels]:
        which = " and ".join(missing)
        return f"{dataset.name} has no labels of its {which} split; few_labels needs them"
    classes, counts = np.unique(dataset.labels["train"], return_counts=True)
    if not 2 <= len(classes) <= NUM_LABELS:
        return f"{dataset.name} has {len(classes)} classes; few_labels takes 2 to {NUM_LABELS}"
    if (fewest := counts.min()) < (needed := -(-NUM_LABELS // len(classes))):
        found = f"{fewest} training examples of class {classes[counts.argmin()]}"
        return f"{dataset.name} has {found}; few_labels needs {needed}"
    return ""


def labeled_examples(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Positions of `count` examples, as many of each class as of any other, or one more.

    labels: (N,) -> (count,), a function of the labels and the number of the draw alone.
    """
    generator = np.random.Generator(np.random.Philox([count, draw]))
    classes = generator.permutation(np.unique(labels))
    shares = [len(part) for part in np.array_split(np.arange(count), len(classes))]
    of_class = [generator.permutation(np.flatnonzero(labels == each)) for each in classes]
    return np.concatenate([each[:share] for each, share in zip(of_class, shares, strict=True)])


def _make_tuned(subject: Subject) -> Callable[[Mapping[str, Any], np.ndarray], float]:
    """(variables of encoder and posterior, labeled examples) -> accuracy on the split."""
    model, dataset, split = subject.model, subject.dataset, subject.protocol.split
    classes = np.unique(dataset.labels["train"])
    rows: Any = dataset.splits["train"]
    optimizer = optax.adam(_RATE)

    def logits_of(params: Any, stats: Any, x: Array) -> Array:
        code = nn.apply(VAE.embed, model)({"params": params["model"], "batch_stats": stats}, x)
        logits: Any = nn.Dense(len(classes)).apply({"params": params["head"]}, code)
        return logits

    @jax.jit
    def fitted(params: Any, stats: Any, x: Array, y: Array) -> Any:
        step = classification_step(lambda params, x: logits_of(params, stats, x), optimizer)
        carry = params, optimizer.init(params)
        return jax.lax.scan(lambda carry, _: step(carry, (x, y)), carry, length=_STEPS)[0][0]

    @jax.jit
    def predicted(params: Any, stats: Any, rows: Array, indices: Array) -> Array:
        return logits_of(params, stats, observed(subject.transform, rows, indices)).argmax(axis=1)

    def tuned(variables: Mapping[str, Any], chosen: np.ndarray) -> float:
        stats = variables.get("batch_stats", {})
        params = {name: variables["params"][name] for name in ("encoder", "posterior")}
        x = observed(subject.transform, rows[chosen], chosen)
        dim = jax.eval_shape(nn.apply(VAE.embed, model), variables, x).shape[-1]
        # From zero, so that the start decides nothing: logits are linear in it.
        head = {"kernel": jnp.zeros((dim, len(classes))), "bias": jnp.zeros(len(classes))}
        y = jnp.asarray(np.searchsorted(classes, dataset.labels["train"][chosen]))
        params = fitted({"model": params, "head": head}, stats, x, y)
        most = num_at_once(model, subject.variables, dataset.x_shape, ("encoder",))
        program = functools.partial(predicted, params, stats)
        found = over_split(program, dataset.splits[split], most)
        return float((classes[found] == dataset.labels[split]).mean())

    return tuned


def _random_start(subject: Subject, draw: int) -> Mapping[str, Any]:
    """Encoder and posterior as they begin, with the statistics that batch norm has there.

    Those are of unlabeled training data: with none, a deep network would start in another state
    than the one that it was made for, and be an easy control.
    """
    model, shape = subject.model, subject.dataset.x_shape
    keys = jax.random.split(jax.random.fold_in(subject.key(3), draw))
    x = jnp.zeros((2, *shape))
    variables: Any = jax.jit(functools.partial(model.init, method="encode"))(
        keys[0], x, jax.random.split(keys[1])
    )
    if "batch_stats" not in variables:
        return variables
    rows: Any = subject.dataset.splits["train"]

    @jax.jit
    def passed(stats: Any, rows: Array, index: Array) -> Any:
        def features(vae: VAE, x: Array) -> Array:
            return vae.features(x, True)

        x = observed(subject.transform, rows, index)
        given = {"params": variables["params"], "batch_stats": stats}
        return nn.apply(features, model, mutable=["batch_stats"])(given, x)[1]["batch_stats"]

    stats = variables["batch_stats"]
    for index in _batches(len(rows), draw):
        stats = passed(stats, rows[index], index)
    return {"params": variables["params"], "batch_stats": stats}


def _batches(num_examples: int, draw: int) -> Iterable[np.ndarray]:
    size = min(_BATCH, num_examples)
    return (batch_indices(draw, step, num_examples, size) for step in range(_PASSES))


def _of_pixels(subject: Subject, chosen: np.ndarray) -> float:
    """Of logistic regression on raw / scale."""
    from sklearn.linear_model import LogisticRegression

    dataset, split = subject.dataset, subject.protocol.split
    rows: Any = dataset.splits["train"]

    def flat(x: Any) -> np.ndarray:
        return np.asarray(x, np.float32).reshape(len(x), -1) / dataset.scale

    classifier = LogisticRegression(max_iter=2_000)
    classifier.fit(flat(rows[chosen]), dataset.labels["train"][chosen])
    found = over_split(lambda x, _: classifier.predict(flat(x)), dataset.splits[split], 2_000)
    return float((found == dataset.labels[split]).mean())
