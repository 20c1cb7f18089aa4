"""One network alone: a checkpoint against its record, modules against numbers by hand, bad ones by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dyncomp
from dyncomp.bench import profiling
from dyncomp.errors import BrokenPlugin, DyncompError, InvalidValue
from dyncomp.fast.folding import batch_norms
from dyncomp.store.files import plain
from tests.bench.profile_modules import Plain, make
from tests.jobs import PLAIN, Listening, config, plugin

MODULES = "tests.bench.profile_modules:"
SHAPE = (3, 8, 8)
MACS = 8 * 3 * 9 * 64 + 8 * 5  # of `make`: the convolution, the linear layer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.0)
    monkeypatch.setattr("dyncomp.bench.profiling.memory_figures", lambda *given: {"params_mib": 1.0})


@pytest.fixture
def no_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes seconds, and is another test's matter."""
    none = dict.fromkeys(("activation_mib", "memory_mib_inference", "memory_mib_training", "memory_error"))
    monkeypatch.setattr("dyncomp.bench.modules.figures_of", lambda *given: {"params_mib": 1.0, **none})


VOLATILE = {"tuned"}
"""what depends on the machine's speed"""


@pytest.mark.usefixtures("no_report")
def test_a_checkpoint_gives_the_numbers_of_its_run(tmp_path: Path) -> None:
    loose = plugin(tmp_path / "mine.py", "profiled", PLAIN)
    outcome = Listening().run(config(tmp_path / "out", "skipnet,early_exit,profiled", include_path=loose))
    assert outcome is not None
    assert len([cell for cell in outcome.store.cells() if cell["role"] != "source"]) == 4
    for record in outcome.store.cells():
        found = dyncomp.profile_checkpoint(outcome.store.checkpoint_path(record["key"]), batch_sizes=(2,))
        again = {name: value for name, value in plain(found.trained).items() if name not in {*VOLATILE, "warnings"}}
        assert {name: record[name] for name in again} == again
        assert {"top1", "macs", "macs_p95", "routes", "executed_macs", "priced_macs", "points", "gates"} <= set(again)
        assert found.macs == record["macs"]
        assert found.flops == 2 * record["macs"]
        assert found.params == record["params"]
        assert sum(found.macs_by_operator.values()) == pytest.approx(record["macs"])
        assert found.errors == found.warnings[len(found.trained["warnings"]) :] == ()
        assert [one.batch_size for one in found.latency] == [2]
        assert f"top-1        {record['top1']:.2f} %" in str(found)
        assert record["spec"] in found.name


@pytest.mark.usefixtures("no_report")
def test_a_plugin_that_changed_since_is_warned_of(tmp_path: Path) -> None:
    path = plugin(tmp_path / "mine.py", "profiled_later", PLAIN)
    outcome = Listening().run(config(tmp_path / "out", "profiled_later", include_path=path))
    assert outcome is not None
    checkpoint = outcome.store.checkpoint_path(outcome.store.cells()[1]["key"])
    entry = dyncomp.registry.METHODS.entry("profiled_later")
    object.__setattr__(entry, "source_hash", "another")
    found = dyncomp.profile_checkpoint(checkpoint, batch_sizes=(2,))
    assert "the file of the method is not as the run had it: figures may differ" in found.warnings


@pytest.mark.parametrize("given", [make, f"{MODULES}make", make()], ids=["function", "name", "module"])
@pytest.mark.usefixtures("no_apart")
def test_macs_and_parameters_by_hand(given: Any) -> None:
    found = dyncomp.profile_model(given, SHAPE, (1, 3), "cpu")
    assert found.macs == MACS
    assert found.flops == 2 * MACS
    assert found.macs_by_operator == {"aten.convolution": MACS - 40, "aten.addmm": 40}
    assert found.params == 8 * 3 * 9 + 16 + 45
    assert found.uncounted == {}
    assert [one.batch_size for one in found.latency] == [1, 3]
    assert all(one.ms_p50 and one.rounds and not one.error for one in found.latency)
    assert all(one.verdict == "INVALID: too few samples (1 rounds, at least 20 are wanted)" for one in found.latency)
    assert found.operators is not None
    assert sum(found.operators["shares"].values()) == pytest.approx(1)
    assert found.operators["shares"]["unknown"] == 0
    assert found.errors == ()
    text = str(found)
    for words in (
        "MACs         13.9 k per image, FLOPs 27.7 k (2 per MAC)",
        "convolution 99.7 %",
        "batch 3: p50",
        "time         priced ",
    ):
        assert words in text
    assert "not counted  nothing: every operator that ran has a known cost" in text
    assert "time         priced " in text
    told = json.loads(json.dumps(plain(found.as_dict())))
    assert told["macs"] * 2 == told["flops"]
    assert [row["images_per_s"] for row in told["latency"]] == [one.images_per_s for one in found.latency]


@pytest.mark.usefixtures("no_apart")
def test_a_network_of_ours_is_asked_for_its_sparse_form() -> None:
    net = dyncomp.build("skipnet", "cifar_resnet8", image_size=8)
    found = dyncomp.profile_model(net, SHAPE, (2,), "cpu")
    assert net.costs is not None
    assert 0 < float(found.macs or 0) <= net.costs.full
    assert found.errors == ()


@pytest.mark.usefixtures("no_apart")
def test_an_operator_without_a_formula_is_named() -> None:
    found = dyncomp.profile_model(f"{MODULES}Unpriced", SHAPE, (1,), "cpu")
    assert list(found.uncounted) == ["aten._fft_r2c"] or list(found.uncounted) == ["aten._fft_c2c"]
    assert "(1 calls): no cost formula, so their MACs are missing" in str(found)
    assert found.operators is not None
    (unknown,) = found.operators["top"]["unknown"]
    assert unknown["operator"] in found.uncounted
    assert 0 < unknown["share"] == found.operators["shares"]["unknown"] < 1
    assert f"unknown: {unknown['operator']} " in str(found)
    assert found.macs == 3 * 5


@pytest.mark.usefixtures("no_apart")
def test_how_sure_a_latency_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.05)
    (found,) = dyncomp.profile_model(MODULES + "make", SHAPE, (2,), "cpu").latency
    assert found.ms_low is not None
    assert found.ms_p50 is not None
    assert found.ms_high is not None
    assert found.ms_low <= found.ms_p50 <= found.ms_high
    assert found.rounds >= 20 or "too few samples" in str(found.verdict)  # the time is short, the machine may be busy
    assert str(found.verdict).startswith(("VALID", "INVALID: "))
    assert str(found).endswith(f"{found.rounds} rounds, {found.verdict}")


BAD = {
    "Noisy": "4 of 4 images get another answer when asked again; ",
    "Nan": "4 of 4 images get NaN or infinite values; ",
    "Rows": "an answer of shape (5,) for a batch of 4; ",
    "Never": "the network fails on 4 images of noise: ValueError: never; ",
    "NoRoom": "latency, batch 6: MemoryError: no room; give other batch sizes",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("no_apart")
def test_what_is_wrong_is_named_and_the_rest_is_measured(name: str) -> None:
    found = dyncomp.profile_model(MODULES + name, SHAPE, (2, 6, 7), "cpu")
    assert any(BAD[name] in error for error in found.errors), found.errors
    assert f"error        {found.errors[0]}" in str(found)
    assert [one.batch_size for one in found.latency] == [2, 6, 7]  # never shrunk, never left out
    failed = {"NoRoom": [6], "Never": [2, 6, 7]}.get(name, [])
    assert [one.batch_size for one in found.latency if one.error] == failed
    assert (found.macs is None) == (name == "Never")


@pytest.mark.parametrize(
    ("given", "apart"),
    [(f"{MODULES}make", True), pytest.param(Plain, True, marks=pytest.mark.slow), (Plain(), False)],
    ids=str,
)
def test_memory_of_a_module(given: Any, apart: bool) -> None:
    found = dyncomp.profile_model(given, (3, 64, 64), (1, 32), "cpu").memory
    assert found["memory_error"] is None
    assert (found["memory_batch_size"], found["memory_batch_size_training"]) == (32, 32)
    assert ("in the program's own process" in found["memory_of"]) == (not apart)
    if given == f"{MODULES}make":
        maps = 4 * 32 * 8 * 64 * 64 / 2**20
        assert found["activation_mib"] == pytest.approx(2 * maps, rel=0.01)  # a layer's input and output
        assert maps < found["memory_mib_inference"] < 2 * maps + 40
        assert 3 * maps < found["memory_mib_training"] < 8 * maps + 60


def test_a_module_that_is_given_stays_as_it_is(no_apart: None) -> None:
    given = Plain().train()
    before = [parameter.clone() for parameter in given.parameters()]
    dyncomp.profile_model(given, SHAPE, (2,), "cpu")
    assert given.training
    assert all(torch.equal(a, b) for a, b in zip(before, given.parameters(), strict=True))


def local() -> Callable[[], nn.Module]:
    return lambda: Plain()


REFUSED: list[tuple[Any, tuple[int, ...], Any, type[DyncompError], str]] = [
    ("nowhere:make", SHAPE, (1,), InvalidValue, "No module named 'nowhere'; give module:name"),
    (f"{MODULES}absent", SHAPE, (1,), InvalidValue, "has no attribute 'absent'; give module:name"),
    ("no_colon", SHAPE, (1,), InvalidValue, "model='no_colon': give module:name"),
    (f"{MODULES}NUMBER", SHAPE, (1,), InvalidValue, "is a int; give module:name"),
    (f"{MODULES}makes_a_number", SHAPE, (1,), InvalidValue, "makes a int; give module:name"),
    (f"{MODULES}broken", SHAPE, (1,), BrokenPlugin, "cannot be made: ValueError: cannot be built"),
    (
        f"{MODULES}lazy_and_broken",
        SHAPE,
        (1,),
        InvalidValue,
        "lazy layers, whose parameters get no shape from an image",
    ),
    (make, (3, 8), (1,), InvalidValue, r"image_shape=\(3, 8\): give channels, height and width"),
    (make, (3, 0, 8), (1,), InvalidValue, "give channels, height and width"),
    (make, SHAPE, (0,), InvalidValue, "batch-sizes=.0.: give whole numbers"),
]


@pytest.mark.parametrize(
    ("given", "shape", "sizes", "kind", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_what_is_no_module_is_refused(given: Any, shape: Any, sizes: Any, kind: type[DyncompError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        dyncomp.profile_model(given, shape, sizes, "cpu")
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="no such file; give a checkpoint of a run"):
        dyncomp.profile_checkpoint(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("nothing")
    with pytest.raises(InvalidValue, match="is not a checkpoint of dyncomp"):
        dyncomp.profile_checkpoint(tmp_path / "text.safetensors")


@pytest.mark.usefixtures("no_apart")
def test_modules_are_timed_with_their_batch_norms_folded_or_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[nn.Module] = []

    def note(run: Any, *given: Any, **more: Any) -> tuple[()]:
        timed.append(run.func)
        return ()

    monkeypatch.setattr(profiling, "_latency", note)
    assert dyncomp.profile_model(MODULES + "make", SHAPE, batch_sizes=(2,)).warnings == ()
    (warning,) = dyncomp.profile_model(MODULES + "ReadsStatistics", SHAPE, batch_sizes=(2,)).warnings
    assert warning.startswith("timed with its batch norms as they are: made ready for use, the network fails")
    net = dyncomp.build("skipnet", "cifar_resnet8", classes=5, image_size=8)
    assert dyncomp.profile_model(net, SHAPE, batch_sizes=(2,)).warnings == ()
    assert [len(batch_norms(one)) for one in timed] == [0, 1, 0]
    assert len(batch_norms(net)) == 9
