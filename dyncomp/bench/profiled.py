"""What is known of one network alone: the answer of `profile_model` and `profile_checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dyncomp.fast import available
from dyncomp.report import numbers as n
from dyncomp.store.schema import Measured, OperatorsRecord, Taken

WIDTH = 13


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of `batch_size` images; `error` stands in their place where it could not run.

    `ms_low` to `ms_high` is the 95 % interval of the median; `verdict` says whether all of it can be relied on.
    """

    batch_size: int
    ms_p50: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    ms_p90: float | None = None
    ms_p99: float | None = None
    rounds: int = 0
    verdict: str | None = None
    error: str | None = None

    @property
    def images_per_s(self) -> float | None:
        """Throughput at the median."""
        return None if self.ms_p50 is None else self.batch_size * 1000 / self.ms_p50

    def __str__(self) -> str:
        if self.error:
            return f"batch {self.batch_size}: {self.error}"
        p50, p90, p99 = (n.significant(ms) for ms in (self.ms_p50, self.ms_p90, self.ms_p99))
        sure = f"({n.significant(self.ms_low)} to {n.significant(self.ms_high)})"
        times = f"p50 {p50} ms {sure}, p90 {p90} ms, p99 {p99} ms; {n.significant(self.images_per_s)} images/s"
        return f"batch {self.batch_size}: {times}; {self.rounds} rounds, {self.verdict}"


@dataclass(frozen=True)
class Profile:
    """One network, measured alone. Printed, it is a block of text; `as_dict()` is ready for JSON.

    `macs` is the mean of an image, gates included, one per multiply-add (`flops = 2 * macs`), counted from the
    operators that ran; `uncounted` has the operators that ran and have no cost formula, with their calls: their MACs
    are missing; `unseen` says which work no counter sees, in other threads or outside torch. `operators` has the time
    by operator, as a run's record does: the shares of those that are priced, free by the convention and unknown; None
    where it could not be measured. `memory` has the names of a run's record. `trained` has what only a trained network
    has (accuracy, routes, gates, MACs image by image), under the names of a run's record and equal to it; empty for any
    other module. `errors` says what could not be measured, and why; `fast_path` is generated code and its vectors, why
    there is none, or `off`.
    """

    name: str
    image_shape: tuple[int, int, int]
    device: str
    images: str
    params: int
    macs: float | None
    macs_by_operator: Mapping[str, float]
    uncounted: Mapping[str, int]
    unseen: tuple[str, ...]
    operators: OperatorsRecord | None
    latency: tuple[Latency, ...]
    memory: Taken
    trained: Measured = field(default_factory=Measured)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fast_path: str = field(default_factory=lambda: str(available()))

    @property
    def flops(self) -> float | None:
        """Twice the MACs."""
        return None if self.macs is None else 2 * self.macs

    def as_dict(self) -> dict[str, Any]:
        """All of it, `flops` and `images_per_s` included."""
        rows = [asdict(one) | {"images_per_s": one.images_per_s} for one in self.latency]
        return asdict(self) | {"flops": self.flops, "latency": rows}

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"{name:{WIDTH}}{text}" for name, text in self._lines())])

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "input", f"{'x'.join(map(str, self.image_shape))}, {self.images}, {self.device}"
        yield "parameters", f"{self.params:,} ({n.significant(self.memory.get('params_mib'))} MiB)"
        yield from _trained(self.trained)
        yield "MACs", f"{n.macs(self.macs)} per image, FLOPs {n.macs(self.flops)} (2 per MAC)"
        most_first = sorted(self.macs_by_operator.items(), key=lambda item: -item[1])
        shares = ((name, 100 * macs / self.macs if self.macs else None) for name, macs in most_first)
        listed = ", ".join(f"{name.removeprefix('aten.')} {n.percent(share)}" for name, share in shares)
        yield "  of them", listed or n.MISSING
        for number, text in enumerate(self._not_counted()):
            yield "" if number else "not counted", text
        if self.operators is not None:
            yield "time", _times(self.operators)
        for number, one in enumerate(self.latency):
            yield "" if number else "latency", str(one)
        yield "fast path", self.fast_path
        yield from _resources(self.memory)
        yield from (("warning", text) for text in self.warnings)
        yield from (("error", text) for text in self.errors)

    def _not_counted(self) -> list[str]:
        calls = ", ".join(f"{name} ({count} calls)" for name, count in sorted(self.uncounted.items()))
        missing = [f"{calls}: no cost formula, so their MACs are missing"] if calls else []
        if self.macs is None:
            return [*missing, n.MISSING]
        return [*missing, *self.unseen] or ["nothing: every operator that ran has a known cost"]


def _times(operators: OperatorsRecord) -> str:
    """Of the time inside operators: what is priced, what is free, what nobody knows, and by which of these."""
    of_kinds: Mapping[str, Any] = operators["shares"]
    shares = ", ".join(f"{kind} {n.percent(100 * share)}" for kind, share in of_kinds.items())
    unknown = ", ".join(f"{one['operator']} {n.percent(100 * one['share'])}" for one in operators["top"]["unknown"])
    return f"{shares} of operators' time (batch {operators['batch_size']})" + (f"; unknown: {unknown}" * bool(unknown))


def _trained(figures: Measured) -> Iterator[tuple[str, str]]:
    if not figures:
        return
    yield "top-1", f"{n.fixed(figures['top1'], 2, ' %')} of {figures['images']} test images"
    yield "routes", f"{figures['routes']}; top-1 with routes exchanged {n.percent(figures['route_exchange_top1'])}"
    claimed, executed = n.ratio(figures["speedup_claimed"]), n.ratio(figures["speedup_executed"])
    yield "speed-up", f"claimed {claimed}, executed {executed}, against {n.macs(figures['macs_static'])} MACs of static"


def _resources(memory: Taken) -> Iterator[tuple[str, str]]:
    def mib(value: float | None) -> str:
        return f"{n.significant(value)} MiB"

    if "memory_batch_size" in memory:
        batch, training = memory["memory_batch_size"], memory["memory_batch_size_training"]
        activations = f"of it activations {mib(memory['activation_mib'])} (batch {batch})"
        inference = f"inference {mib(memory['memory_mib_inference'])}, {activations}"
        yield "memory", f"{inference}; training {mib(memory['memory_mib_training'])} (batch {training})"
        yield "", str(memory["memory_of"])
    if "energy_of" in memory:
        joules = memory["energy_j_per_image"]
        told = "" if joules is None else f"{n.significant(joules)} J per image (batch {memory['energy_batch_size']}), "
        yield "energy", f"{told}{memory['energy_of']}"
