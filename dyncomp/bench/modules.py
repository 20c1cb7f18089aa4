"""Any module by its name: `my.module:make_model`; and the jobs that measure its memory in a process of its own."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.optim import SGD

from dyncomp.bench.memory import OF, figures_of
from dyncomp.core import Net
from dyncomp.errors import BrokenPlugin, InvalidValue, in_one_line
from dyncomp.profile.apart import rise_bytes_apart
from dyncomp.profile.peak import Work, load_libraries, rise_bytes
from dyncomp.profile.sanity import tensors_in
from dyncomp.store.schema import MemoryFigures

FORM = (
    "give module:name, such as my.module:make_model, where the name is a module of torch or a function that makes one"
)
PASSES = 3
STEPS = 2
SEED = 0


def load_module(name: str) -> nn.Module:
    """The module that `package.module:name` is or makes. Raises InvalidValue, BrokenPlugin with its own error."""
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute):
        raise InvalidValue(f"model={name!r}: {FORM}")
    try:
        found = attrgetter(attribute)(importlib.import_module(place))
    except ModuleNotFoundError as error:
        raise InvalidValue(f"model={name!r}: {error}; {FORM}, and stand in its folder or install it") from None
    except AttributeError as error:
        raise InvalidValue(f"model={name!r}: {error}; {FORM}") from None
    except Exception as error:
        raise BrokenPlugin(f"model={name!r} cannot be imported: {in_one_line(error)}") from error
    return made(found, name)


def made(model: nn.Module | Callable[[], Any], name: str) -> nn.Module:
    """The module itself, or what calling it without arguments gives; its random weights are always the same."""
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise InvalidValue(f"model={name!r} is a {type(model).__name__}; {FORM}")
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(SEED)
            built = model()
    except Exception as error:
        raise BrokenPlugin(f"model={name!r} cannot be made: {in_one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise InvalidValue(f"model={name!r} makes a {type(built).__name__}; {FORM}")
    return built


def name_of_module(model: nn.Module | Callable[[], Any] | str) -> tuple[str, bool]:
    """What it is called, and whether another process can find it by that."""
    if isinstance(model, str):
        return model, True
    if isinstance(model, nn.Module):
        return type(model).__name__, False
    module, name = getattr(model, "__module__", ""), getattr(model, "__qualname__", type(model).__name__)
    return f"{module}:{name}", bool(module) and module != "__main__" and "<" not in name


def asked(module: nn.Module) -> Callable[[Tensor], Any]:
    """What answers images: the sparse form of a network of ours, else the module's call."""
    if isinstance(module, Net):
        return lambda images: module(images, sparse=True, record=False)
    return module


def noise(batch_size: int, image_shape: tuple[int, ...], device: str | torch.device) -> Tensor:
    """(B, C, H, W) standard normal noise, always the same."""
    draw = torch.Generator().manual_seed(SEED)
    return torch.randn(batch_size, *image_shape, generator=draw).to(device, memory_format=torch.channels_last)


def inference(model: str, batch_size: int, image_shape: list[int], device: str) -> Work:
    """A few passes over one batch."""
    return inference_of(load_module(model), noise(batch_size, tuple(image_shape), device))


def inference_of(module: nn.Module, batch: Tensor) -> Work:
    """The same for a module that is here."""
    ask = asked(module.to(batch.device).eval())

    def run() -> None:
        with torch.inference_mode():
            for _ in range(PASSES):
                ask(batch)

    return Work(run, run, str(batch.device))


def training(model: str, batch_size: int, image_shape: list[int], device: str) -> Work:
    """Two steps of SGD with momentum on one batch: cross-entropy of logits, mean square of any other answer."""
    return training_of(load_module(model), noise(batch_size, tuple(image_shape), device))


def training_of(module: nn.Module, batch: Tensor) -> Work:
    """The same for a module that is here; its weights change."""
    load_libraries()
    module.to(batch.device).train()

    def steps(count: int) -> None:
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = SGD(learning, lr=1e-6, momentum=0.9)
        for _ in range(count):
            loss = _loss(tensors_in(module(batch)))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    return Work(lambda: steps(1), lambda: steps(STEPS), str(batch.device))


def _loss(answers: list[Tensor]) -> Tensor:
    losses = [
        F.cross_entropy(answer, torch.zeros(len(answer), dtype=torch.long, device=answer.device))
        if answer.dim() == 2
        else answer.square().mean()
        for answer in answers
    ]
    return torch.stack(losses).sum()


def memory_of_module(model: str | nn.Module, batch: Tensor) -> MemoryFigures:
    """As in a run's record, on this batch; of a module that no other process can find, in this one."""
    module = load_module(model) if isinstance(model, str) else model
    ask = asked(module.to(batch.device).eval())
    where = "" if isinstance(model, str) else ", measured in the program's own process: give the module by a name"
    arguments = {"batch_size": len(batch), "image_shape": list(batch.shape[1:]), "device": str(batch.device)}

    def rise(name: str) -> int:
        if isinstance(model, str):
            return rise_bytes_apart(f"{__name__}:{name}", {"model": model, **arguments})
        work = {"inference": inference_of, "training": training_of}[name]
        return rise_bytes(work(copy.deepcopy(model), batch))

    return {
        "memory_batch_size": len(batch),
        "memory_batch_size_training": len(batch),
        "memory_of": OF[batch.device.type] + where,
        **figures_of(module, lambda: ask(batch), rise),
    }


def with_shapes(module: nn.Module, name: str) -> nn.Module:
    """The module as it is. Raises InvalidValue where layers are lazy: their parameters have no shape yet."""
    if any(map(is_lazy, module.parameters())):
        raise InvalidValue(f"{name} has lazy layers, whose parameters have no shape yet; run it on one image first")
    return module
