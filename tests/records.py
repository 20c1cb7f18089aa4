"""A synthetic output folder, self-consistent, written through the real store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dyncomp.store import Store, cell_key

IMAGES = 360
ROUNDS = 21
MACS_STATIC = 1_200_000
UNIT_MACS = (100_000, 150_000, 200_000, 100_000, 150_000, 200_000)
GATE_MACS = 1_000
"""of one gate; the plain backbone's `MACS_STATIC` less `sum(UNIT_MACS)` always run"""
RATES = (1.0, 0.45, 0.6, 0.0, 0.3, 0.7)
ENVIRONMENT = {
    "python": "3.11.2",
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "dyncomp": "0.1.0",
    "numpy": "2.4.1",
    "scikit-learn": "1.9.0",
    "pandas": "3.0.1",
    "machine": "x86_64",
    "processor": "A Processor",
    "cores": 2,
    "threads": 2,
    "platform": "Linux",
    "cpu_capability": "AVX2",
    "fast_path": "code for vectors of 256 bits",
    "device": "cpu",
    "argv": [],
}
RECIPE = {
    "epochs": 40.0,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup": 0.1,
    "clip": 5.0,
    "augment": 1.0,
    "milestones": [],
}
SETTING = {"affinity": [0, 1], "gc": False, "allocator": "as it is", "clock": "perf_counter"}
OPINION = {"macs": 1_000_000, "flops": 2_000_000, "by_operator": {"aten.convolution": 1_000_000}}


def images_of(used: np.ndarray, macs: np.ndarray, errors: int, seed: int) -> dict[str, Any]:
    """Per-image columns with exactly `errors` wrong predictions; the labels depend on nothing."""
    labels = np.arange(IMAGES) % 10
    prediction = labels.copy()
    wrong = np.random.default_rng(100 + seed).choice(IMAGES, size=errors, replace=False)
    prediction[wrong] = (labels[wrong] + 1) % 10
    route = ["".join("1" if bit else "0" for bit in row) for row in used]
    return {"label": labels, "prediction": prediction, "macs": macs, "route": route}


def used_units(rates: Sequence[float], seed: int) -> np.ndarray:
    """(B, U) bits with the given rates, exactly."""
    draw = np.random.default_rng(seed)
    columns = [draw.permutation(np.arange(IMAGES) < round(rate * IMAGES)) for rate in rates]
    return np.stack(columns, axis=1) if columns else np.zeros((IMAGES, 0), dtype=bool)


def cell_record(
    spec: str, images: Mapping[str, Any], found: list[dict[str, Any]], seed: int = 0, **more: Any
) -> dict[str, Any]:
    """A finished cell's record that agrees with its per-image columns; `more` overrides fields."""
    record = identified(spec, seed, **more)
    more = {name: value for name, value in more.items() if name not in ("version", "source")}
    macs = np.asarray(images["macs"])
    right = np.asarray(images["prediction"]) == np.asarray(images["label"])
    p5, p50, p95 = (float(p) for p in np.percentile(macs, [5, 50, 95]))
    return {
        **record,
        "jobs": 1,
        "params": 175_000,
        "sites": len(found),
        "top1": 100 * float(right.mean()),
        "top1_calibration": 97.5,
        "macs": float(macs.mean()),
        "macs_std": float(macs.std()),
        "macs_p5": p5,
        "macs_p50": p50,
        "macs_p95": p95,
        "macs_max": int(macs.max()),
        "macs_always": MACS_STATIC - sum(UNIT_MACS),
        "macs_full": MACS_STATIC + GATE_MACS * len(found),
        "macs_gates": GATE_MACS * len(found),
        "macs_static": MACS_STATIC,
        "macs_right": float(macs[right].mean()),
        "macs_wrong": float(macs[~right].mean()) if not right.all() else None,
        "macs_wrong_less_right": None,
        "macs_by_class": [],
        "second_opinions": {**OPINION, **{name: {**OPINION, "differences": {}} for name in ("torch", "fvcore")}},
        "speedup_claimed": MACS_STATIC / float(macs.mean()),
        "executed_macs": int(macs.sum()),
        "executed_by_operator": {"aten.convolution": int(macs.sum())},
        "priced_macs": int(macs.sum()),
        "speedup_executed": MACS_STATIC * IMAGES / int(macs.sum()),
        "uncounted_operators": [],
        "uncounted_calls": {},
        "tuned": {},
        "points": [],
        "streams": None,
        "image_size": 8,
        "images": IMAGES,
        "routes": len(set(images["route"])),
        "routes_effective": 1.0,
        "class_p_value": 0.4 if found else None,
        "gates": found,
        "mixtures": [],
        "gallery": [],
        "route_exchange_top1": None,
        "warnings": [
            f"gate {gate['site']}.{gate['unit']} is always {'on' if gate['rate_test'] else 'off'}"
            for gate in found
            if gate["rate_test"] in (0, 1) and gate["unit_macs"]
        ],
        "stages": [
            {
                "name": "train",
                "epochs": 40,
                "loss_first": 2.3,
                "loss_last": 0.02,
                "seconds": 21.5,
                "log": [[epoch, 2.3 * 0.88**epoch, 0.5] for epoch in range(40)],
                "routes": [[epoch, 7] for epoch in range(40)],
                "rates": [{gate["site"]: gate["rate_test"] for gate in found} for _ in range(40)],
                "warnings": [],
            }
        ],
        "train_seconds": 21.5,
        **more,
    }


def identified(spec: str, seed: int = 0, version: str = "0.1.0", source: str = "abc", **more: Any) -> dict[str, Any]:
    """The part of a record that a failed cell has too; `source` is the hash of the method's file."""
    fields = {
        "method": spec.split("(")[0],
        "spec": spec,
        "hyperparameters": {},
        "control_of": "",
        "sources": {},
        "paper": "arXiv:1711.09485",
        "role": "method",
        "backbone": "cifar_resnet14",
        "dataset": "digits",
        "seed": seed,
        "budget": "quick",
        "epochs": 40,
        "device": "cpu",
        "status": "ok",
        "error": None,
        "traceback": None,
        "warnings": [],
        "started_at": "2026-01-01T10:00:00+00:00",
        "finished_at": "2026-01-01T10:01:00+00:00",
        "git_commit": "0" * 40,
        "environment": ENVIRONMENT,
        **more,
    }
    named = ("backbone", "dataset", "seed", "budget", "device")
    identity = {name: fields[name] for name in named} | {
        "method": spec,
        "version": version,
        "source": {"method": source, "backbone": "def", "dataset": "012"},
        "recipe": RECIPE,
    }
    return {**fields, "identity": identity, "key": cell_key(identity)}


def gate_rows(used: np.ndarray, unit_macs: Sequence[int], overhead: int) -> list[dict[str, Any]]:
    """One gate per unit."""
    return [
        {
            "site": f"blocks.{unit}",
            "unit": 0,
            "units": 1,
            "always_on": int(used[:, unit].all()),
            "always_off": int(not used[:, unit].any()),
            "rate_test": float(used[:, unit].mean()),
            "rate_calibration": float(used[:, unit].mean()),
            "overhead_macs": overhead,
            "unit_macs": unit_macs[unit],
            "class_information": 0.03,
            "by_class": [],
            "input_dependence": 0.12 if 0 < used[:, unit].mean() < 1 else 0.0,
        }
        for unit in range(used.shape[1])
    ]


def static_cell(store: Store, seed: int = 0, errors: int = 5, **more: Any) -> str:
    images = images_of(used_units((), seed), np.full(IMAGES, MACS_STATIC), errors, seed)
    return _written(store, cell_record("static", images, [], seed, role="static", **more), images)


def condconv_cell(store: Store, seed: int = 0, errors: int = 4, **more: Any) -> str:
    """Nothing in it can be skipped, so it has no gates to report on."""
    used = np.ones((IMAGES, 4), dtype=bool)
    images = images_of(used, np.full(IMAGES, round(1.06 * MACS_STATIC)), errors, 10 + seed)
    more = {"route_exchange_top1": 91.0, "paper": "arXiv:1904.04971", **more}
    return _written(store, cell_record("condconv", images, [], seed, **more), images)


def skipnet_cell(
    store: Store,
    seed: int = 0,
    errors: int = 7,
    spec: str = "skipnet(target=0.5)",
    rates: Sequence[float] = RATES,
    **more: Any,
) -> str:
    used = used_units(rates, 20 + seed)
    always = MACS_STATIC - sum(UNIT_MACS) + GATE_MACS * len(rates)
    images = images_of(used, always + used @ np.array(UNIT_MACS), errors, 20 + seed)
    gates = gate_rows(used, UNIT_MACS, GATE_MACS)
    more = {"route_exchange_top1": 97.8, **more}
    return _written(store, cell_record(spec, images, gates, seed, **more), images)


def failed_cell(store: Store, spec: str = "blockdrop", seed: int = 0, **more: Any) -> str:
    more = {
        "status": "failed",
        "error": "TypeError: build() takes 1 positional argument",
        "traceback": "Traceback (most recent call last):\n  ...\nTypeError: build() takes 1",
        "paper": "arXiv:1711.08393",
        **more,
    }
    return _written(store, identified(spec, seed, **more), None)


def _written(store: Store, record: dict[str, Any], images: Mapping[str, Any] | None) -> str:
    store.write_cell(record, images)
    return str(record["key"])


def timing(store: Store, keys: Sequence[str], batch_size: int, ms: Sequence[float], **more: Any) -> dict[str, Any]:
    """Rounds with a drift that all networks share, so that only paired ratios are steady."""
    drift = 1 + 0.5 * np.sin(np.arange(ROUNDS))
    noise = np.random.default_rng([batch_size, more.get("seed", 0)]).normal(1.0, 0.01, size=(len(keys), ROUNDS))
    record = {
        "key": cell_key({"cells": list(keys), "batch_size": batch_size, **more}),
        "cells": list(keys),
        "wanted": {"width": 0.03, "seconds": 2.5},
        "batch_size": batch_size,
        "device": "cpu",
        "threads": 2,
        **(SETTING if keys else {}),
        "forms": {},
        "layout": "channels_last",
        "dtype": "float32",
        "processes": "one per network, taking turns",
        "seed": 0,
        "batches_per_round": 1,
        "distinct_rounds": 0,
        "reference": None,
        "beside_ms": {},
        "rounds": dict.fromkeys(keys, ROUNDS),
        "verdicts": {},
        "load": {"processors": 2, "own": 1.0, "others": 0.0, "average": 1.0},
        "seconds": 2.5,
        "not_compiled": {},
        "samples_ms": {
            key: list(mean * drift * noise[place]) for place, (key, mean) in enumerate(zip(keys, ms, strict=True))
        },
        "errors": {},
        "started_at": "2026-01-01T10:05:00+00:00",
        "environment": ENVIRONMENT,
        **more,
    }
    store.write_timing(record)
    return record


CONFIG = {
    "methods": "static,condconv,skipnet(target=0.5),blockdrop",
    "backbone": "cifar_resnet14",
    "dataset": "digits",
    "budget": "quick",
    "seeds": [0],
    "batch_sizes": [1, 64],
    "device": "auto",
    "data_dir": "",
    "output": "",
    "init": "",
    "controls": "none",
    "recipe": {},
    "include_path": [],
    "jobs": None,
    "latency_width": 3.0,
    "latency_seconds": None,
    "compile": False,
    "fast": True,
    "force": False,
    "strict_macs": False,
    "dry_run": False,
    "log": [],
    "left_out": [],
}


def make_store(folder: Path, seeds: Sequence[int] = (0,)) -> Store:
    """Static, CondConv, SkipNet and a failed BlockDrop, timed at two batch sizes."""
    store = Store.create(folder, {**CONFIG, "seeds": list(seeds)})
    for seed in seeds:
        keys = [
            static_cell(store, seed, errors=5 + seed),
            condconv_cell(store, seed, errors=4 + seed),
            skipnet_cell(store, seed, errors=7 + 2 * seed),
        ]
        timing(store, keys, 1, (1.0, 1.6, 1.4), seed=seed)
        timing(store, keys, 64, (20.0, 26.0, 17.0), seed=seed)
    failed_cell(store)
    return store
