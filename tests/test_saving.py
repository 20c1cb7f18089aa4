"""`dyncomp.load` and `dyncomp.save`: what is saved comes back, deployed or not; what cannot be read is told."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torchvision.models import get_model

import dyncomp
from dyncomp._facts import rebuilding_facts
from dyncomp.core import Net
from dyncomp.errors import BrokenPlugin, DeviceNotAvailable, DyncompError, InvalidValue, OutputError, UnknownName
from dyncomp.fast.tuning import in_turn
from dyncomp.profile.child import Child
from dyncomp.registry import METHODS
from dyncomp.train import save_checkpoint
from tests.jobs import PLAIN, plugin

SHAPE: dict[str, Any] = {"classes": 3, "in_channels": 1, "image_size": 12}
SOME = ["static", "skipnet", "condconv", "lkam", "early_exit", "hydranet", "laudnet", "distill", "model_ensemble"]
MEAN, STD, NAMES = (0.25,), (0.5,), ("cat", "dog", "gnu")


def network(method: str = "skipnet", backbone: str = "cifar_resnet8", **more: Any) -> Net:
    """With weights of its own in the layout of loaded ones, and a card that says everything."""
    net = dyncomp.build(method, backbone, **{"seed": 3, **SHAPE, **more})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(0.03 * torch.rand(value.shape, generator=draw))
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    assert net.card is not None
    net.card = replace(net.card, classes=NAMES, mean=MEAN, std=STD, shorter_side=14)
    return net


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def answers(net: Net) -> Tensor:
    with in_turn():
        some = next(net.parameters())
        logits: Tensor = net(images().to(some), record=False).logits
    return logits


@pytest.mark.parametrize("method", SOME)
@pytest.mark.parametrize("ready", [False, True], ids=["as it is", "deployed"])
def test_what_is_saved_comes_back(method: str, ready: bool, tmp_path: Path) -> None:
    net = dyncomp.deployed(network(method)) if ready else network(method)
    dyncomp.save(net, tmp_path / "net.safetensors")
    other = dyncomp.load(tmp_path / "net.safetensors")
    assert other.card == net.card
    assert (other.card is not None and other.card.deployed) == ready
    assert not any(module.training for module in other.modules())
    assert other.costs == net.costs
    mine, theirs = net.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert torch.equal(answers(other), answers(net))


def test_it_can_be_deployed_at_once(tmp_path: Path) -> None:
    net = network()
    dyncomp.save(net, tmp_path / "net.safetensors")
    ready = dyncomp.load(tmp_path / "net.safetensors", deploy=True)
    assert torch.equal(answers(ready), answers(dyncomp.deployed(net)))
    assert ready.classes == NAMES
    assert ready.card == replace(net.card, deployed=True)  # type: ignore[type-var]
    dyncomp.save(ready, tmp_path / "ready.safetensors")
    assert torch.equal(answers(dyncomp.load(tmp_path / "ready.safetensors", deploy=True)), answers(ready))
    dyncomp.save(dyncomp.deployed(ready), tmp_path / "twice.safetensors")
    torch.testing.assert_close(answers(dyncomp.load(tmp_path / "twice.safetensors")), answers(ready))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ready", [False, True])
def test_the_type_of_the_parameters_is_kept(dtype: torch.dtype, ready: bool, tmp_path: Path) -> None:
    net = network().to(dtype)
    net = dyncomp.deployed(net) if ready else net
    dyncomp.save(net, tmp_path / "net.safetensors")
    other = dyncomp.load(tmp_path / "net.safetensors")
    assert {p.dtype for p in other.parameters()} == {dtype}
    assert torch.equal(answers(other), answers(net))


def test_a_type_that_files_do_not_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="parameters are float16; make them one of float32, float64, bfloat16"):
        dyncomp.save(network().half(), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_network_says_what_it_is(tmp_path: Path) -> None:
    net = dyncomp.build("skipnet(target=0.4)", "mobilenet_v2(width=0.5)", classes=4, image_size=32, seed=0)
    assert (net.spec, net.backbone) == ("skipnet(target=0.4)", "mobilenet_v2(width=0.5)")
    assert net.classes == ("0", "1", "2", "3")
    assert dyncomp.deployed(net).spec == net.spec
    dyncomp.save(net, tmp_path / "net")
    other = dyncomp.load(str(tmp_path / "net"))
    assert (other.spec, other.backbone, other.classes) == (net.spec, net.backbone, net.classes)
    identity = rebuilding_facts(tmp_path / "net")["identity"]
    assert "target=0.4" in identity["method"]
    assert identity["method"].count("=") > 2  # defaults are written too: a later version may have others


def test_a_network_made_by_hand_says_nothing(tmp_path: Path) -> None:
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    for ask in (lambda: net.spec, lambda: net.classes, lambda: net.predict(torch.zeros(1, 1, 2, 2))):
        with pytest.raises(InvalidValue, match="has no card"):
            ask()
    with pytest.raises(InvalidValue, match="has no card"):
        dyncomp.save(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def pickled(net: Net) -> Net:
    other: Net = pickle.loads(pickle.dumps(net))
    return other


def saved_by_torch(net: Net) -> Net:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    other: Net = torch.load(file, weights_only=False)
    return other


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_by_torch])
@pytest.mark.parametrize("method", ["static", "skipnet", "condconv"])
@pytest.mark.parametrize("ready", [False, True], ids=["as it is", "deployed"])
def test_copies_are_the_same_network(copied: Callable[[Net], Net], method: str, ready: bool, tmp_path: Path) -> None:
    net = dyncomp.deployed(network(method)) if ready else network(method)
    answers(net)  # by now it has code of its own
    other = copied(net)
    assert other.card == net.card
    assert other.costs == net.costs
    torch.testing.assert_close(answers(other), answers(net))
    dyncomp.save(other, tmp_path / "net")
    torch.testing.assert_close(answers(dyncomp.load(tmp_path / "net")), answers(net))


def test_no_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("precious")
    with pytest.raises(InvalidValue, match=r"net\.safetensors exists; give another name, or overwrite=True"):
        dyncomp.save(network(), path)
    assert path.read_text() == "precious"
    dyncomp.save(network(), path, overwrite=True)
    assert dyncomp.load(path).classes == NAMES
    with pytest.raises(InvalidValue, match="is a folder; give the name of a file"):
        dyncomp.save(network(), tmp_path, overwrite=True)
    for nowhere in (path / "inside", tmp_path / "absent" / "net.safetensors"):
        with pytest.raises(OutputError, match=r"there is no folder .*; make it, or give another place"):
            dyncomp.save(network(), nowhere)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def save_on_a_full_disk(pipe: Connection, path: Path) -> None:
    net = dyncomp.build("static", "cifar_resnet8", classes=3, in_channels=1, image_size=12)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        dyncomp.save(net, path, overwrite=True)
    except OutputError as error:
        pipe.send(str(error))


def test_a_file_that_grows_too_large_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("precious")
    child = Child(save_on_a_full_disk, path)
    assert re.fullmatch(r".*net\.safetensors cannot be written \(.*\); give another place", child.receive(60))
    child.end()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.safetensors", "precious")]


def test_what_the_library_cannot_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(net: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device\n(os error 28)")

    monkeypatch.setattr("dyncomp.train.checkpoint.save_model", full)
    path = tmp_path / "net.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"cannot be written \(I/O error: No space left on device \(os error 28\)\);"):
        dyncomp.save(network(), path, overwrite=True)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.safetensors", "precious")]


@pytest.mark.parametrize("place", ["/proc/net.safetensors", "a" * 300, "/dev/null/net"])
def test_a_place_that_cannot_be_written_is_told(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"cannot be written|there is no folder") as caught:
        dyncomp.save(network(), place)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", SOME)
@pytest.mark.parametrize("names", [("cat",), ("cat", "dog", "gnu", "yak"), ()])
def test_a_card_with_another_number_of_names_is_not_saved(method: str, names: tuple[str, ...], tmp_path: Path) -> None:
    for net in (network(method), dyncomp.deployed(network(method))):
        assert net.card is not None
        net.card = replace(net.card, classes=names)
        with pytest.raises(InvalidValue, match=rf"card names {len(names)} classes, which .*does not fit; set net.card"):
            dyncomp.save(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_nothing_is_read_with_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object, **more: object) -> None:
        raise AssertionError("something was unpickled")

    net = dyncomp.deployed(network("condconv"))
    dyncomp.save(net, tmp_path / "net")
    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, never)
    assert dyncomp.load(tmp_path / "net").card == net.card


# what a file may be instead of a checkpoint


def absent(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, str(path))


def by_torch(path: Path) -> None:
    torch.save(network(), path)


def cut_off(path: Path) -> None:
    dyncomp.save(network(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def no_header(path: Path) -> None:
    dyncomp.save(network(), path)
    path.write_bytes(path.read_bytes()[:40])


def folder(path: Path) -> None:
    path.mkdir()


def output_of_a_benchmark(path: Path) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "abc.safetensors").write_bytes(b"")


def rewritten(**changes: Any) -> Callable[[Path], None]:
    """A checkpoint some facts of which are others; None leaves one out."""

    def make(path: Path) -> None:
        dyncomp.save(network(), path)
        facts = rebuilding_facts(path)
        facts["identity"] |= {key: changes.pop(key) for key in ("method", "backbone") if key in changes}
        facts = {key: value for key, value in (facts | changes).items() if value is not None}
        save_checkpoint(network(), path, facts)

    return make


def with_metadata(told: dict[str, str]) -> Callable[[Path], None]:
    return lambda path: save_file({"weight": torch.zeros(2)}, str(path), metadata=told)


def newer(path: Path) -> None:
    dyncomp.save(network(), path)
    with safe_open(str(path), framework="pt") as file:
        told = file.metadata()
    save_file(load_file(str(path)), str(path), metadata=told | {"dyncomp_format": "3"})


BAD: dict[str, tuple[Callable[[Path], None], type[DyncompError], str]] = {
    "absent": (absent, InvalidValue, r"is not a checkpoint of dyncomp \(no such file\); give one that"),
    "empty": (empty, InvalidValue, "is not a checkpoint of dyncomp"),
    "foreign": (foreign, InvalidValue, r"is not a checkpoint of dyncomp \(it does not say of which network\)"),
    "by torch.save": (by_torch, InvalidValue, "is not a checkpoint of dyncomp"),
    "cut off": (cut_off, InvalidValue, "is not a checkpoint of dyncomp"),
    "no header": (no_header, InvalidValue, "is not a checkpoint of dyncomp"),
    "folder": (folder, InvalidValue, r"is not a checkpoint of dyncomp \(a folder\); give one that"),
    "output folder": (output_of_a_benchmark, InvalidValue, r"a folder, with checkpoints/abc\.safetensors in it"),
    "newer": (newer, InvalidValue, rf"has format 3, and dyncomp {re.escape(dyncomp.__version__)} reads up to format 2"),
    "no text": (with_metadata({"dyncomp": "{", "dyncomp_format": "2"}), InvalidValue, "is not a checkpoint of dyncomp"),
    "a list": (with_metadata({"dyncomp": "[]"}), InvalidValue, "is not a checkpoint of dyncomp"),
    "odd format": (with_metadata({"dyncomp": "{}", "dyncomp_format": "x"}), InvalidValue, "is not a checkpoint of"),
    "no identity": (with_metadata({"dyncomp": json.dumps({"classes": 2})}), InvalidValue, "does not say its identity"),
    "no size": (rewritten(image_size=None), InvalidValue, "does not say its image_size"),
    "odd identity": (rewritten(identity={"method": "static"}), InvalidValue, r"does not say its identity\.backbone"),
    "text as identity": (rewritten(identity="static"), InvalidValue, "identity"),
    "odd classes": (rewritten(classes="many"), InvalidValue, "says classes='many', where an integer above 0 belongs"),
    "odd mean": (rewritten(mean=[0.1, 0.2]), InvalidValue, "for 1 channels; give one value per channel"),
    "odd type": (rewritten(dtype="int3"), InvalidValue, "says dtype='int3', where one of float32, float64"),
    "another size": (rewritten(classes=5, class_names=None), InvalidValue, "holds the weights of another network"),
    "another method": (rewritten(method="condconv"), InvalidValue, "holds the weights of another network"),
    "plain as deployed": (rewritten(deployed=True), InvalidValue, "holds the weights of another network"),
    "missing plugin": (
        rewritten(method="nowhere_to_be_found(a=1)"),
        UnknownName,
        "the checkpoint names it: give its file by --include-path, include_path= in Python",
    ),
    "missing backbone": (rewritten(backbone="nowhere_to_be_found"), UnknownName, "include_path= in Python"),
    "option that is gone": (rewritten(method="skipnet(gone=1)"), UnknownName, "unknown hyperparameter of skipnet"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_loaded_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    make, error, message = BAD[case]
    path = tmp_path / "net.safetensors"
    make(path)
    with pytest.raises(error, match=message) as caught:
        dyncomp.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_only_a_runs_checkpoint_says_is_told(tmp_path: Path) -> None:
    dyncomp.save(network(), tmp_path / "net")
    with pytest.raises(InvalidValue, match=r"does not say its dataset, .*: dyncomp\.save wrote it; give a checkpoint"):
        dyncomp.profile_checkpoint(tmp_path / "net")


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    dyncomp.save(network(), tmp_path / "net")
    with pytest.raises(DeviceNotAvailable, match="device 'gpu7' is not available"):
        dyncomp.load(tmp_path / "net", device="gpu7")
    assert dyncomp.load(tmp_path / "net", device=torch.device("cpu")).classes == NAMES


def test_a_plugin_of_a_loose_file(tmp_path: Path) -> None:
    file = plugin(tmp_path / "loose.py", "loose_method", f"width: int = 3\n{dedent(PLAIN)}")
    with METHODS.temporary():
        dyncomp.include_path(file)
        net = network("loose_method(width=4)")
        dyncomp.save(net, tmp_path / "net")
    with pytest.raises(UnknownName, match="include_path="):
        dyncomp.load(tmp_path / "net")
    with pytest.raises(UnknownName, match="include_path="):
        dyncomp.load(tmp_path / "net", include_path=None)
    for named in (file, str(file), [file]):
        other = dyncomp.load(tmp_path / "net", include_path=named)
        assert other.spec == "loose_method(width=4)"
        assert torch.equal(answers(other), answers(net))
    with pytest.raises(BrokenPlugin, match="no such file or folder"):
        dyncomp.load(tmp_path / "net", include_path=tmp_path / "gone.py")


def test_weights_that_training_began_from_need_not_be_there(tmp_path: Path) -> None:
    save_file(get_model("resnet18", num_classes=3).state_dict(), str(tmp_path / "began.safetensors"))
    net = dyncomp.build("static", f'resnet18(weights="{tmp_path / "began.safetensors"}")', classes=3, image_size=32)
    dyncomp.save(net, tmp_path / "net")
    (tmp_path / "began.safetensors").unlink()
    other = dyncomp.load(tmp_path / "net")
    assert other.backbone == net.backbone
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in net.state_dict().items())


def test_a_checkpoint_of_an_older_version(tmp_path: Path) -> None:
    """It kept neither names nor mean and deviation, and did not say its format."""
    net = network()
    identity = {"method": "skipnet", "backbone": "cifar_resnet8", "seed": 3, "dataset": "digits"}

    save_model(net, str(tmp_path / "old"), metadata={"dyncomp": json.dumps({"identity": identity, **SHAPE})})
    other = dyncomp.load(tmp_path / "old")
    assert torch.equal(answers(other), answers(net))
    assert other.classes == ("0", "1", "2")
    assert other.predict(images(1))[0].class_name in other.classes
    with pytest.raises(InvalidValue, match=r"mean and deviation of the network's images are not known.*older version"):
        other.preprocess(torch.zeros(1, 12, 12))
