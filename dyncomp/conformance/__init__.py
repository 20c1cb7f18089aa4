"""What must hold for every method on every backbone; a method is tested by these checks with no test written.

Each check takes a Case and raises NotConforming, one line that says what differs and by how much. All run in float64 on
a small network whose normalisations have seen images, so that no signal fades on the way. `validate` runs them all and
says how to mend what fails.
"""

from dyncomp.conformance.case import Case, NotConforming
from dyncomp.conformance.checklist import CheckList, Result, validate, validate_all
from dyncomp.conformance.checks import CHECKS, failures
from dyncomp.conformance.examples import backbone_examples, examples, method_examples

__all__ = [
    "CHECKS",
    "Case",
    "CheckList",
    "NotConforming",
    "Result",
    "backbone_examples",
    "examples",
    "failures",
    "method_examples",
    "validate",
    "validate_all",
]
