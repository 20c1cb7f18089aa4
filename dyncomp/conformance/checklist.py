"""Every check on a method as a list to read: what is promised, what failed, and how to mend it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dyncomp._source import Source, show
from dyncomp.conformance.case import Case, NotConforming
from dyncomp.conformance.checks import CHECKS
from dyncomp.conformance.examples import backbone_examples
from dyncomp.conformance.hints import RAISED, hint_for
from dyncomp.core import Method
from dyncomp.errors import CannotAttach, DyncompError, in_one_line
from dyncomp.registry import METHODS
from dyncomp.spec import name_of

FAVOURITE = "cifar_resnet8"
"""The backbone that is tried first: small, and with residual blocks."""

FOUNDATIONS = {
    "builds": "The network is built, and its multiply-adds are measured.",
    "runs": "The network runs in both forms, as a batch and image by image, whatever is decided.",
}
"""What the checks stand on; where one of these fails, no check is tried."""


@dataclass(frozen=True)
class Result:
    """One line of the list; `message` and `hint` (what failed, how to mend it) are empty where it passed."""

    check: str
    promise: str
    passed: bool
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class CheckList:
    """What the checks say of a method, by its spec, on a backbone (empty: it finds a place in none)."""

    spec: str
    backbone: str
    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results that did not pass."""
        return tuple(result for result in self.results if not result.passed)


def validate(spec: str, backbone: str = "") -> CheckList:
    """Run all checks for a method, on the backbone given, or on the smallest that it can be built on.

    Whatever the method's own code raises is a failed check. Raises what `registry` and `spec` raise for the two specs,
    and, where a backbone is given that has no place for the method, what its `build` says.
    """
    method: Method = METHODS.create(spec)
    case = _given(method, backbone) if backbone else _smallest(method)
    if isinstance(case, str):
        return CheckList(spec, "", (_failed("builds", case),))
    return CheckList(spec, case.backbone, tuple(_results(case, METHODS.entry(name_of(method)).source)))


def validate_all(
    specs: Sequence[str], backbone: str = "", begin: Callable[[str], None] = lambda spec: None
) -> Iterator[CheckList]:
    """The check list of each spec, and then of the `examples` that its method's class names.

    `begin` is told each one before its checks are run, which may take a while. Raises as `validate` does for the specs
    given; an example that is no spec is a failed check, and one that has no place in the backbone given is tried on the
    smallest that has one.
    """
    methods: dict[str, Method] = {spec: METHODS.create(spec) for spec in specs}
    for method in methods.values() if backbone else ():
        _given(method, backbone)  # before the first check is run
    for spec in methods:
        begin(spec)
        yield validate(spec, backbone)
    for spec in dict.fromkeys(spec for method in methods.values() for spec in type(method).examples):
        if spec not in methods:
            begin(spec)
            yield _validate_example(spec, backbone)


def _validate_example(spec: str, backbone: str) -> CheckList:
    try:
        return validate(spec, backbone)
    except CannotAttach:
        return validate(spec)
    except DyncompError as error:
        return CheckList(spec, "", (_failed("builds", f"`examples` of the class holds {spec!r}: {error}"),))


def _given(method: Method, backbone: str) -> Case:
    case = Case(method, backbone)
    if refusal := _refusal(case):
        raise refusal
    return case


def _smallest(method: Method) -> Case | str:
    """The method on the first backbone that does not refuse it; what the favourite said where all refuse."""
    case = Case(method, FAVOURITE)
    refusal = _refusal(case)
    if refusal is None:
        return case
    candidates = sorted(backbone_examples(), key=lambda name: name != FAVOURITE)  # then the least work first
    for name in candidates:
        case = Case(method, name)
        if _refusal(case) is None:
            return case
    return f"the method finds a place in none of the backbones {', '.join(candidates)} ({refusal})"


def _refusal(case: Case) -> DyncompError | None:
    """What the backbone is refused with; the method's own faults are for the checks to say."""
    try:
        case.fresh()
    except DyncompError as error:
        return error
    except (Exception, SystemExit):
        return None
    return None


def _results(case: Case, source: Source) -> Iterator[Result]:
    foundations = {"builds": case.fresh, "runs": lambda: _ran(case)}
    for name, run in foundations.items():
        yield (result := _tried(name, run, source))
        if not result.passed:
            return
    for name, check in CHECKS.items():
        yield _tried(name, partial(check, case), source)


def _ran(case: Case) -> None:
    """All passes; what they hold, and a wish that an op ignores, is for the checks to say."""
    try:
        assert case.passes
    except NotConforming:
        return


def _tried(name: str, run: Callable[[], object], source: Source) -> Result:
    """Run a check; an exception that none foresees is a failure too."""
    try:
        run()
    except (NotConforming, DyncompError) as error:
        return _failed(name, str(error))
    except (Exception, SystemExit) as error:
        # told with the last line of the method's own file on the way there, or the last of all
        frames = list(traceback.extract_tb(error.__traceback__))
        own = [frame for frame in frames if source.file and Path(frame.filename) == source.file]
        frame = (own or frames)[-1]
        found = _failed(name, f"{show(Path(frame.filename))}:{frame.lineno}: {in_one_line(error)}")
        return replace(found, hint=RAISED) if name in CHECKS else found
    return Result(name, _promise(name), passed=True)


def _failed(name: str, message: str) -> Result:
    return Result(name, _promise(name), False, message, hint_for(name, message))


def _promise(name: str) -> str:
    """A check's promise: its docstring's first line."""
    return FOUNDATIONS.get(name) or (CHECKS[name].__doc__ or "").strip().split("\n")[0]
