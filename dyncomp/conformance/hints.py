"""How to mend a method that does not keep a promise: what usually causes it, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ANYWHERE = ""
"""Part of every message."""

RAISED = (
    "The method's code raised this where the check called it. Mend the line that is named; to see it alone, build the "
    "network by `dyncomp.build(spec, backbone, image_size=16).double()` and call it."
)

HINTS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "builds": (
            (
                "`examples` of the class",
                "The class variable `examples` is a tuple of specs of this method, such as "
                '`examples = ("my_method(share=0.3)",)`; the suite tries them all.',
            ),
            (
                "finds a place in none",
                "`build` raises CannotAttach on every small backbone that is registered. Look at what it asks of a "
                "backbone (`backbone.blocks`, ResidualBlock, layer types), or name a backbone by --backbone.",
            ),
            (
                ANYWHERE,
                "`build(new)` calls `new()` for a fresh backbone and returns the network with its ops in it. Raise "
                "CannotAttach, with a sentence, where the backbone has no place for them.",
            ),
        ),
        "runs": (
            (
                ANYWHERE,
                "`decide(x)`, `dense(x, decision)` and `sparse(x, decision)` of every op must take any number of "
                "images, 0 used ones included, in float64: make new tensors by `x.new_zeros(...)`, or `.to(x)`.",
            ),
        ),
        "answers_depend_on_images_and_decisions": (
            (
                "ignores the wish",
                "`Op.forced(used, weight)` returns the Decision that comes nearest to the wish and is allowed. "
                "Build it from its arguments, not from constants or from the gate.",
            ),
            (
                "change no logit",
                "`dense` and `sparse` must act by the `decision` that they are given. Do not ask the gate again "
                "in them, and let `decision.weight` reach the output.",
            ),
            (
                ANYWHERE,
                "The features do not reach the classifier: something multiplies them by 0, an op forgets the "
                "shortcut of images that skip, or a log, a root or a division makes NaN (clamp its argument).",
            ),
        ),
        "dense_equals_sparse": (
            (
                "prices",
                "The decision itself depends on the form. `decide` must not look at `self.tape.sparse`, and a "
                "gate behind another op must see the same features in both forms.",
            ),
            (
                ANYWHERE,
                "Compare `Op.dense` with `Op.sparse` of the sites: what images get that skip (their shortcut, not "
                "zeros), `decision.weight` in both, the activation once in both, rows put back where they came "
                "from (`put`).",
            ),
        ),
        "batch_equals_images": (
            (
                ANYWHERE,
                "Something mixes the images of a batch: a mean, median, sort or top-k over dimension 0, a reshape "
                "that joins images, a batch norm that uses the batch. In evaluation use dimensions 1 and up only, "
                "and running statistics; look at the gate first.",
            ),
        ),
        "price_equals_executed": (
            (
                "without a known cost",
                "Write that part with convolutions, linear layers or matrix products, whose multiply-adds are known "
                "(dyncomp/core/counter.py lists the operators).",
            ),
            (
                ANYWHERE,
                "Look at `sparse` of the op: it must run a unit on the images that use it only (`take(x, rows)`), "
                "once, and by `self.unit(index, module, x)`, so that it is priced. More executed than priced: "
                "work that no unit or gate stands for. Less: a unit that ran for nobody is priced.",
            ),
        ),
        "sites_have_names_and_shapes": (
            (
                "the trace names",
                "Every op of the network must be a submodule (in a ModuleList, not a plain list), be called once in a "
                "pass, and be reached through the module that `build` returns.",
            ),
            (
                "neither 0 nor 1",
                "In evaluation `used` says who runs: 0 or 1. Use `hard_decision(probability, sampling)`; a soft "
                "value goes into `weight`.",
            ),
            (
                ANYWHERE,
                "`decide` returns a Decision of three tensors (images, units), `units` being the op's own number: "
                "keep the dimension of the units also when it is 1 (`[:, None]`).",
            ),
        ),
        "all_on_equals_plain": (
            (
                "all on costs",
                "With everything on and gates free of charge the multiply-adds are not the plain backbone's: "
                "`build` adds or takes away layers outside of gates. Leave out `all_on_is_plain = True` if that "
                "is meant.",
            ),
            (
                ANYWHERE,
                "Call `new()` before you make a gate, so that the backbone draws the same first weights; let "
                "weight 1 leave the block's output as it is; change no features in place (`mul_`, `+=`). Leave "
                "out `all_on_is_plain = True` if everything on is another network by design.",
            ),
        ),
        "stages_train_what_they_claim": (
            ("add up to", "Give the `share`s of `stages()` so that they add up to 1."),
            (
                "no parameter is called",
                "`learns` holds patterns of parameters' names as `net.named_parameters()` spells them, such as "
                "`*.gate.*`; print the names of `dyncomp.build(...)` once.",
            ),
            (
                "not claimed",
                "The stage's loss changes a parameter that `learns` does not name. Add its pattern, or detach "
                "what the loss takes from it.",
            ),
            (
                "zero throughout",
                "The parameter's effect is multiplied by 0, clamped or saturated at the first weights. Begin with "
                "a small bias or a soft value, or leave the parameter out of `learns`.",
            ),
            (
                ANYWHERE,
                "The loss does not reach that parameter: look for `detach`, `torch.no_grad`, `argmax`, a comparison or "
                "`round` between it and the loss. `hard_decision` passes the gradient through a threshold; "
                "`output.macs()` and `output.share()` pass it from a price to the gates.",
            ),
        ),
        "evaluation_is_deterministic": (
            (
                "in place",
                "Some layer writes into its input (`mul_`, `zero_`, `relu_`, `+=`); write the result into a new "
                "tensor.",
            ),
            (
                "no trace",
                "An answer must not depend on whether decisions are recorded, nor on how often the network was called: "
                "keep no counter and no state in `forward`.",
            ),
            (
                ANYWHERE,
                "Noise, dropout and sampling belong to training: ask `self.training` before you draw. Keep "
                "nothing in the module from one batch to the next.",
            ),
        ),
        "survives_save_copy_and_layout": (
            (
                "does not give the method back",
                "The dataclass's fields are its hyperparameters: plain values (numbers, texts, tuples), none "
                "changed in `__post_init__`.",
            ),
            (
                "saved and loaded",
                "What was learnt must be a parameter or a buffer of a registered module: no plain attribute that "
                "holds a tensor, no `persistent=False`, no list of modules without ModuleList.",
            ),
            (
                "deep copy",
                "A copy must own its parts: no closure, global or default argument that holds a module or a "
                "tensor of the first network.",
            ),
            (
                ANYWHERE,
                "Code reads memory instead of indices: look for `view`, `is_contiguous`, `data_ptr`, `as_strided`; use "
                "`reshape` and `flatten`.",
            ),
        ),
        "deployment_changes_nothing": (
            (
                ANYWHERE,
                "Deployed, a BatchNorm behind a convolution or linear layer is folded into it and gone. Run layers by "
                "calling the modules (`self.norm(x)`), the same ones in both forms, and read no weights or statistics "
                "of theirs beside that; what `__init__` takes out of inner modules, take again in `attach`.",
            ),
        ),
        "costs_add_up": (
            (
                ANYWHERE,
                "The same forced decisions must run the same operators at every call: no counter, cache or chance in "
                "`sparse`, and every unit run by `self.unit(index, module, x)` once.",
            ),
        ),
    }
)


def hint_for(check: str, message: str) -> str:
    """The hint for what a check said; its most general one where the message is none of those foreseen."""
    return next(hint for part, hint in HINTS[check] if part in message)
