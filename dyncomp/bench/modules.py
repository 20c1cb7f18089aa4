"""Any module as it is measured, found by its name, `my.module:make_model`, or given; and the jobs for its memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import SGD

from dyncomp.bench.memory import OF, figures_of
from dyncomp.core import Net
from dyncomp.core.copying import copied
from dyncomp.errors import BrokenPlugin, InvalidValue, in_one_line
from dyncomp.profile.apart import NotMeasured, rise_bytes_apart
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
    """What it is called, and whether another process finds the very same by that name."""
    if isinstance(model, str):
        return model, True
    if isinstance(model, nn.Module):
        return type(model).__name__, False
    place, name = getattr(model, "__module__", ""), getattr(model, "__qualname__", type(model).__name__)
    try:
        found = place != "__main__" and attrgetter(name)(sys.modules[place]) is model
    except (KeyError, AttributeError):
        found = False
    return f"{place}:{name}", found


@dataclass(frozen=True)
class Subject:
    """A module that is measured: in evaluation mode, on a device, on images in a layout that it takes.

    `own` says that the module belongs to the measurement, which may train it. `writes`: it writes into its images, so
    each pass is given a copy. `notes` say for a reader what was done to measure it.
    """

    module: nn.Module
    shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    layout: torch.memory_format
    own: bool
    writes: bool = False
    notes: tuple[str, ...] = ()

    def noise(self, batch_size: int) -> Tensor:
        """(B, C, H, W) standard normal noise, always the same."""
        draw = torch.Generator().manual_seed(SEED)
        images = torch.randn(batch_size, *self.shape, generator=draw)
        return images.to(self.device, self.dtype, memory_format=self.layout)

    def asked(self, module: nn.Module | None = None) -> Callable[[Tensor], Any]:
        """What answers images: the sparse form of a network of ours, else the call; of a `module` made of this one."""
        module = self.module if module is None else module
        ask = partial(module, sparse=True, record=False) if isinstance(module, Net) else module
        return (lambda images: ask(images.clone())) if self.writes else ask


def subject(model: nn.Module, shape: tuple[int, int, int], device: torch.device, own: bool = True) -> Subject:
    """Prepare a module for measurement; unless it is `own`, a copy of it, and itself where it cannot be copied.

    Lazy layers get their shapes by a pass over one image. The images take the type of the module's numbers, and are
    channels-last unless the module fails on that layout alone. A module that fails on any layout is measured as far as
    that goes. Raises InvalidValue where layers stay lazy.
    """
    notes = []
    if not own:
        try:
            model, own = copied(model), True
        except Exception as error:  # a lock, a thread, a file among its attributes
            notes.append(f"not copied ({in_one_line(error)}), so not trained: give a function that makes it")
    model = model.to(device).eval()
    numbers = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    dtype = next((tensor.dtype for tensor in numbers), torch.float32)
    found = Subject(model, shape, device, dtype, torch.channels_last, own)
    if any(map(is_lazy, model.parameters())):
        why, _ = _tried(replace(found, layout=torch.contiguous_format))
        if any(map(is_lazy, model.parameters())):
            raise InvalidValue(
                f"{type(model).__name__} has lazy layers, whose parameters get no shape from an image "
                f"{'x'.join(map(str, shape))}: {why}; give the size that the network is made for"
            )
    found = _laid_out(found)
    why, writes = _tried(found)
    if why:
        usual = _laid_out(replace(found, layout=torch.contiguous_format))
        still, writes_usually = _tried(usual)
        if still:
            found = _laid_out(found)
        else:
            found, writes = usual, writes_usually
            notes.append(f"measured on contiguous images, since it fails on channels-last ones: {why}")
    if writes:
        found = replace(found, writes=True)
        notes.append("it writes into its images: each pass is given a copy, which is part of its time")
    return replace(found, notes=tuple(notes))


@contextmanager
def as_subject(model: nn.Module, shape: tuple[int, int, int], device: torch.device, own: bool) -> Iterator[Subject]:
    """As `subject`; afterwards a module that could not be copied is in training where it was."""
    training = [part for part in model.modules() if part.training]
    prepared = subject(model, shape, device, own)
    try:
        yield prepared
    finally:
        for part in training if not prepared.own else ():
            part.training = True


def _laid_out(subject: Subject) -> Subject:
    """The same, the kernels of its convolutions in the layout of its images, unless they are somebody else's."""
    if subject.own:
        convert_conv2d_weight_memory_format(subject.module, subject.layout)
    return subject


def _tried(subject: Subject) -> tuple[str | None, bool]:
    """Why the module gives no answer for two images, None if it does; and whether it writes into them."""
    images, why = subject.noise(2), None
    try:
        with torch.no_grad():
            subject.asked()(images)
    except Exception as error:
        why = in_one_line(error)
    return why, images._version > 0


def inference(model: str, batch_size: int, image_shape: tuple[int, int, int], device: str) -> Work:
    """A few passes over one batch."""
    return inference_of(subject(load_module(model), image_shape, torch.device(device)), batch_size)


def inference_of(subject: Subject, batch_size: int) -> Work:
    """The same for a module that is here."""
    ask, batch = subject.asked(), subject.noise(batch_size)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(PASSES):
                ask(batch)

    return Work(run, run, str(batch.device))


def training(model: str, batch_size: int, image_shape: tuple[int, int, int], device: str) -> Work:
    """Two steps of SGD with momentum on one batch: cross-entropy of logits, mean square of any other answer."""
    return training_of(subject(load_module(model), image_shape, torch.device(device)), batch_size)


def training_of(subject: Subject, batch_size: int) -> Work:
    """The same for a module that is here; its weights change."""
    load_libraries()
    module, batch = subject.module.train(), subject.noise(batch_size)

    def steps(count: int) -> None:
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = SGD(learning, lr=1e-6, momentum=0.9)
        for _ in range(count):
            loss = _loss(tensors_in(module(batch.clone() if subject.writes else batch)))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    return Work(lambda: steps(1), lambda: steps(STEPS), str(batch.device))


def _loss(answers: list[Tensor]) -> Tensor:
    learnt = [answer for answer in answers if answer.requires_grad]
    if not learnt:
        raise NotMeasured("no answer depends on a parameter that learns")
    losses = [
        F.cross_entropy(answer, torch.zeros(len(answer), dtype=torch.long, device=answer.device))
        if answer.dim() == 2
        else answer.square().mean()
        for answer in learnt
    ]
    return torch.stack(losses).sum()


def memory_of_module(subject: Subject, batch_size: int, name: str) -> MemoryFigures:
    """As in a run's record, on a batch of noise; without a `name` by which another process finds it, in this one."""
    ask, batch = subject.asked(), subject.noise(batch_size)
    where = "" if name else ", measured in the program's own process: give the module by a name"
    arguments = {"batch_size": batch_size, "image_shape": subject.shape, "device": str(subject.device)}

    def rise(of: str) -> int:
        if name:
            return rise_bytes_apart(f"{__name__}:{of}", {"model": name, **arguments})
        if of == "inference":
            return rise_bytes(inference_of(subject, batch_size))
        if not subject.own:
            raise NotMeasured("the module cannot be copied, and training would change it")
        return rise_bytes(training_of(replace(subject, module=copied(subject.module)), batch_size))

    return {
        "memory_batch_size": batch_size,
        "memory_batch_size_training": batch_size,
        "memory_of": OF[batch.device.type] + where,
        **figures_of(subject.module, lambda: ask(batch), rise),
    }
