"""What training of a config costs on this machine, and what the same costs in PyTorch."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vaejax.benchmark import machine
from vaejax.benchmark.estimate import num_parameters
from vaejax.benchmark.operations import step_operations
from vaejax.benchmark.startup import startup_seconds
from vaejax.benchmark.stepper import Stepper, compilation, our_stepper, replica_stepper
from vaejax.benchmark.torch_peer import TorchPeer, check_known, torch_library
from vaejax.config import to_json, unknown, validate
from vaejax.data.arrays import Dataset
from vaejax.data.sources import dataset_from
from vaejax.parallel import usable_devices
from vaejax.types import Device

PEERS = ("torch",)
_WARM_UP = 3  # steps


class Runner(Protocol):
    """Whatever can take training steps and tells how long they took."""

    def run(self, num_steps: int) -> float:
        """-> seconds."""
        ...


def benchmark(
    config: ConfigDict,
    dataset: Dataset | None = None,
    *,
    against: str = "",
    rounds: int = 7,
    num_steps: int = 0,
    num_devices: int = 1,
    num_replicas: int = 0,
    startup: bool = True,
) -> dict[str, Any]:
    """Everything about the speed of `config`, as JSON-able numbers.

    against: "torch", or nothing.  num_steps: of a round; 0 takes about a second.  num_replicas: as
    one program, too.  startup: of `vaejax train`, unless there is a `dataset`.  Raises ValueError.
    """
    validate(config)
    _check_counts(rounds, num_steps, num_replicas)
    if against:
        _check_peer(against, config, num_devices)
    # Before this process takes the cores, and on a GPU most of its memory.
    starts = startup_seconds(config) if startup and dataset is None else {}
    dataset = dataset_from(config, dataset)
    devices = usable_devices(config.batch_size, num_devices)
    ours = our_stepper(config, dataset, devices)
    peers = torch_peers(config, dataset, ours.state.params, devices) if against else {}
    cost = compilation(ours.plan, devices)
    num_steps = num_steps or _steps_of_a_second(ours)
    seconds, roofline = _raced({"ours": ours, **peers}, rounds, num_steps, devices, _dtype(config))
    operations = step_operations(config, dataset)
    given = num_steps, config.batch_size, operations, roofline
    found = {name: rates(values, *given) for name, values in seconds.items()}
    result = {
        "config": _card(config, dataset),
        "machine": machine.description(devices),
        "rounds": rounds,
        "steps_per_round": num_steps,
        "parameters": num_parameters(config, dataset),
        "operations_per_step": operations,
        "compilation": cost._asdict(),
        "startup_seconds": starts,
        "peak_memory": machine.peak_memory(devices),
        "roofline": {"dtype": _dtype(config), "operations_per_second": roofline},
        "ours": found["ours"],
    }
    result |= {against: _compared(seconds, found, peers)} if peers else {}
    if num_replicas:
        result["replicas"] = replica_rates(config, dataset, devices, num_replicas, rounds)
    return result


def replica_rates(
    config: ConfigDict, dataset: Dataset, devices: Sequence[Device], count: int, rounds: int
) -> dict[str, Any]:
    """Seconds of a step of `count` replicas, and the same steps one run after another over that.

    The replicas have all the devices that divide them, a lone run has `devices`.
    """
    runners, many = {"alone": our_stepper(config, dataset, devices)}, usable_devices(count)
    for name, vectorized in (("side by side", True), ("in turn", False)):
        runners[name] = replica_stepper(config, dataset, many, count, vectorized)
    num_steps = _steps_of_a_second(runners["alone"])
    seconds = alternating(runners, rounds, num_steps)
    ways = {
        name: {
            "seconds_per_step": spread(seconds[name] / num_steps),
            "ratio": spread(count * seconds["alone"] / seconds[name]),
        }
        for name in ("side by side", "in turn")
    }
    return {"count": count, "num_devices": len(many), "ways": ways}


def _check_counts(rounds: int, num_steps: int, num_replicas: int) -> None:
    if rounds < 1 or num_steps < 0 or num_replicas < 0:
        given = f"{rounds} rounds of {num_steps} steps with {num_replicas} replicas"
        raise ValueError(f"{given}; at least 1 round, and 0 of the others")


def _raced(
    runners: Mapping[str, Runner],
    rounds: int,
    num_steps: int,
    devices: Sequence[Device],
    dtype: str,
) -> tuple[dict[str, np.ndarray], float]:
    """Seconds of every round by runner, and the best rate of matrix products before and after."""
    before = machine.matrix_product_rate(devices[0], dtype)
    seconds = alternating(runners, rounds, num_steps)
    after = machine.matrix_product_rate(devices[0], dtype)
    return seconds, max(before, after) * len(devices)


def _check_peer(against: str, config: ConfigDict, num_devices: int) -> None:
    if against not in PEERS:
        raise unknown("peer", against, PEERS)
    if num_devices > 1:
        raise ValueError(f"the PyTorch peer runs on one device; {num_devices} were asked for")
    check_known(config)
    torch_library()


def _dtype(config: ConfigDict) -> str:
    return str(config.get("compute_dtype", "float32"))


def _card(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    names = ("encoder", "decoder", "prior", "regularizer", "latent_dim", "batch_size")
    return {
        "sha256": hashlib.sha256(to_json(config).encode()).hexdigest(),
        "dataset": dataset.name,
        "x_shape": list(dataset.x_shape),
        **{name: config[name] for name in names},
        "compute_dtype": _dtype(config),
    }


def torch_peers(
    config: ConfigDict, dataset: Dataset, params: Mapping[str, Any], devices: Sequence[Device]
) -> dict[str, TorchPeer]:
    """PyTorch's runners, by memory format for convolutions and by threads; the fastest counts.

    On a GPU if ours is, and PyTorch can use one.  Raises ValueError as TorchPeer does.
    """
    torch = torch_library()
    on_gpu = devices[0].platform in ("gpu", "cuda") and torch.cuda.is_available()
    formats = [False]
    if len(dataset.x_shape) == 3 and (config.encoder, config.decoder) != ("mlp", "mlp"):
        formats = [False, True]
    peers, most = {}, torch.get_num_threads()
    for is_last, num_threads in itertools.product(formats, {most} if on_gpu else {1, most}):
        device = "cuda" if on_gpu else "cpu"
        peer = TorchPeer(config, dataset, params, channels_last=is_last, device=device)
        peer.num_threads = num_threads
        kind = "channels_last" if is_last else "channels_first"
        peers[f"{kind}, {num_threads} thread{'s' if num_threads > 1 else ''}"] = peer
    return peers


def _steps_of_a_second(stepper: Stepper) -> int:
    """Whole dispatches, as in training, of about a second."""
    most = stepper.supply.most
    stepper.run(most)
    return most * int(np.clip(1 / stepper.run(most), 1, max(1, 5_000 // most)))


def alternating(
    runners: Mapping[str, Runner], rounds: int, num_steps: int
) -> dict[str, np.ndarray]:
    """Every runner in turn, round by round, so that what disturbs one disturbs all.

    -> seconds of each round (rounds,) by runner, after a warm-up that does not count.
    """
    for runner in runners.values():
        runner.run(_WARM_UP)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            seconds[name].append(runner.run(num_steps))
    return {name: np.array(values) for name, values in seconds.items()}


def rates(
    seconds: np.ndarray, num_steps: int, batch_size: int, operations: int, roofline: float
) -> dict[str, Any]:
    """Medians over the rounds with their ranges.  seconds: (rounds,), of num_steps steps each."""
    per_step = spread(seconds / num_steps)
    return {
        "seconds_per_step": per_step,
        "steps_per_second": spread(num_steps / seconds),
        "examples_per_second": spread(num_steps * batch_size / seconds),
        "operations_per_second": operations / per_step["median"],
        "share_of_roofline": operations / per_step["median"] / roofline,
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, smallest and largest of (rounds,)."""
    ends = np.median(values), values.min(), values.max()
    return dict(zip(("median", "min", "max"), map(float, ends), strict=True))


def _compared(
    seconds: Mapping[str, np.ndarray],
    found: Mapping[str, dict[str, Any]],
    peers: Mapping[str, TorchPeer],
) -> dict[str, Any]:
    """The peers' rates, and our speed-up over the fastest of them, round by round."""
    best = min(peers, key=lambda name: float(np.median(seconds[name])))
    ratio = spread(seconds[best] / seconds["ours"])
    return {"fastest": best, "ratio": ratio, **{name: found[name] for name in peers}}
