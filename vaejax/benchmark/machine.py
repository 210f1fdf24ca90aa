"""The machine that a benchmark ran on, and the rate of matrix products that it reaches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.types import Device

_PRODUCTS = 4  # in one dispatch, so that the dispatch does not count
_SIDES = {"cpu": (1024, 2048)}
_LARGE_SIDES = (4096, 8192)


def description(devices: Sequence[Device]) -> dict[str, Any]:
    """Processor, devices, backend and versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _cpu() -> str:
    """The model's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def matrix_product_rate(device: Device, dtype: str = "float32", seconds: float = 1.0) -> float:
    """The best rate of square matrix products, in operations per second, of one device.

    Products of the default precision, which on some GPUs is TF32 for float32, as in training.
    """
    sides = _SIDES.get(device.platform, _LARGE_SIDES)
    return max(_rate(device, dtype, side, seconds / len(sides)) for side in sides)


def _rate(device: Device, dtype: str, side: int, seconds: float) -> float:
    @jax.jit
    def products(a: Any, b: Any) -> Any:
        for _ in range(_PRODUCTS):
            a = a @ b
        return a

    key_a, key_b = jax.random.split(jax.random.key(0))
    with jax.default_device(device):
        a = jax.random.normal(key_a, (side, side), jnp.dtype(dtype))
        b = jax.random.normal(key_b, (side, side), jnp.dtype(dtype)) * side**-0.5
    products(a, b).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        products(a, b).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 * _PRODUCTS / best


def peak_memory(devices: Sequence[Device]) -> dict[str, int]:
    """Bytes that this process has taken at most: of the machine, and of a device that tells."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = devices[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["device"] = stats["peak_bytes_in_use"]
    return found
