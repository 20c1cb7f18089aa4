"""From a network to a file and back: one way for users and for the tool itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp._build import build, numbers_of, sizes_of
from dyncomp._facts import DTYPES, check_size, rebuilding_facts
from dyncomp._version import __version__
from dyncomp.core import BackboneFamily, Card, Method, Net
from dyncomp.errors import DeviceNotAvailable, DyncompError, InvalidValue, OutputError, UnknownName, in_one_line
from dyncomp.fast import deployed
from dyncomp.registry import BACKBONES, METHODS, Registry, include_path
from dyncomp.spec import full_spec, spec_of
from dyncomp.train import load_checkpoint, save_checkpoint

Paths = str | Path | Sequence[str | Path] | None
_include = include_path


def load(
    checkpoint: str | Path, *, deploy: bool = False, include_path: Paths = (), device: str | torch.device = "cpu"
) -> Net:
    """The network of a checkpoint, of a benchmark run or of `dyncomp.save`, in evaluation mode.

    With `deploy` it is made ready for use (`dyncomp.deployed`); one that was saved so is so anyway. `include_path`
    names loose plugin files, or folders of them, where its method or backbone is in one; `device` is cpu, cuda, or
    auto. Nothing in the file is run. Raises InvalidValue for what is no checkpoint, is damaged, or newer than this
    package; UnknownName where a plugin is missing; BrokenPlugin for a file that holds none; CannotDeploy;
    DeviceNotAvailable.
    """
    for path in [include_path] if isinstance(include_path, str | Path) else include_path or ():
        _include(path)
    net, _ = restored(Path(checkpoint), find_device(str(device)))
    assert net.card is not None  # `restored` writes it
    return deployed(net) if deploy and not net.card.deployed else net


def save(net: Net, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a network, as it is or deployed, to a safetensors file that `dyncomp.load` reads.

    The file has its parameters and its card; not its code, which is the method's and the backbone's: their plugins have
    to be at hand where it is loaded, and what was changed by hand on the modules is not in it. Raises InvalidValue for
    a file that exists, unless `overwrite`, and for a network without a card, with another number of classes than its
    card names, or of a type that files do not keep; UnknownName for a method or backbone that is not registered;
    OutputError where the file cannot be written.
    """
    path = Path(path)
    card = net.card
    if card is None:
        raise InvalidValue(
            "this network has no card, so a file could not say how to make it again; give one that dyncomp.build or "
            "dyncomp.load made"
        )
    identity = {
        "method": full_spec(METHODS.create(card.spec)),
        "backbone": full_spec(BACKBONES.create(card.backbone)),
        "seed": card.seed,
        "version": __version__,
    }
    _check_names(net, card)
    facts = {"identity": identity, **facts_of(net)}
    try:
        if path.is_dir():
            raise InvalidValue(f"{path} is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise InvalidValue(f"{path} exists; give another name, or overwrite=True")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}; make it, or give another place")
        save_checkpoint(net, path, facts)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}); give another place") from error


def _check_names(net: Net, card: Card) -> None:
    """Raise InvalidValue for a card whose names of classes are not as many as the network's weights have."""
    method, family = METHODS.create(card.spec), _untrained(BACKBONES.create(card.backbone))
    count, state = len(card.classes), net.state_dict()
    if not count:
        raise InvalidValue(
            "the network's card names 0 classes, which does not fit; set net.card = dataclasses.replace(net.card, "
            "classes=(...)), one name for each class"
        )
    fewer, more = (sizes_of(method, family, (n, card.in_channels, card.image_size)) for n in (count, count + 1))
    for name, size in fewer.items():
        if size != more.get(name, size) and name in state and state[name].shape != size:
            raise InvalidValue(
                f"the network's card names {count} classes, which {name} of shape {tuple(state[name].shape)} does not "
                "fit; set net.card = dataclasses.replace(net.card, classes=(...)), one name for each class"
            )


def facts_of(net: Net) -> dict[str, Any]:
    """What a checkpoint says of a network beside the specs that it was made of. Raises InvalidValue."""
    assert net.card is not None  # asked before
    types = {str(p.dtype).removeprefix("torch.") for p in net.parameters() if p.is_floating_point()}
    if not types <= DTYPES.keys() or len(types) > 1:
        raise InvalidValue(
            f"the network's parameters are {', '.join(sorted(types))}; make them one of {', '.join(DTYPES)}"
        )
    return {**net.card.facts(), "dtype": next(iter(types), "float32")}


def restored(checkpoint: Path, device: torch.device) -> tuple[Net, Method]:
    """The network of a checkpoint on the device, kernels channels-last, and its method. Raises what `load` raises."""
    facts = rebuilding_facts(checkpoint)
    identity = facts["identity"]
    method, family = created(METHODS, identity), created(BACKBONES, identity)
    try:
        card = Card.from_facts(spec_of(method), spec_of(family), identity["seed"], facts)
    except InvalidValue as error:
        raise InvalidValue(f"{checkpoint}: {error}") from error
    net = _untrained_net(checkpoint, card, method, family).to(device, DTYPES[facts.get("dtype", "float32")])
    if card.deployed:
        net = deployed(net)
    load_checkpoint(net, checkpoint)
    net.card = card
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    return net, method


def _untrained_net(checkpoint: Path, card: Card, method: Method, family: BackboneFamily) -> Net:
    """The network of a card, if it can be what the file holds; that is found before memory is taken."""
    family, shape = _untrained(family), (len(card.classes), card.in_channels, card.image_size)
    check_size(checkpoint, numbers_of(method, family, shape))
    try:
        return build(method, family, classes=shape[0], in_channels=shape[1], image_size=shape[2], seed=card.seed)
    except DyncompError:
        raise
    except Exception as error:  # whatever code of plugins and torch do with sizes that cannot be
        told = in_one_line(error, 200)
        raise InvalidValue(f"{checkpoint}: the network that it names cannot be built ({told})") from error


def created(registry: Registry[Any], identity: Mapping[str, Any]) -> Any:
    """The plugin that a checkpoint's identity names. Raises UnknownName where it is not at hand."""
    try:
        return registry.create(identity[registry.kind])
    except UnknownName as error:
        raise UnknownName(
            f"{error}; the checkpoint names it: give its file by --include-path, include_path= in Python"
        ) from None


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. Raises DeviceNotAvailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise DeviceNotAvailable(
            f"device {name!r} is not available on this machine; give one of: auto, {found}"
        ) from None
    return device


def _untrained(family: BackboneFamily) -> BackboneFamily:
    """The backbone without the file of weights that training began from: the checkpoint has what came of them."""
    if is_dataclass(family) and getattr(family, "weights", None) is not None:
        return replace(family, weights=None)
    return family
