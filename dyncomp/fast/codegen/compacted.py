"""A panel of outputs of images that each have only some of the inputs, or use only some of the outputs."""

from __future__ import annotations

from dyncomp.fast.codegen.dense import Dense, Part
from dyncomp.fast.codegen.emit import INT, Value, integer
from dyncomp.fast.codegen.piece import Argument, Range
from dyncomp.fast.codegen.plan import Panel


class Compaction(Dense):
    """Skips the weights of inputs that an image lacks, and cuts out the weights of outputs that it uses."""

    def part(self, image: Value, count: int, part: Part) -> None:
        """See `Dense.part`."""
        channels = integer(self.shape.channels)
        if self.plan.picks_inputs:  # an image without channels reads the first one: it is 0
            channels = self.larger(integer(1), self.load_int(self._list(Argument.INPUT_COUNTS), image))
        left = self.smaller(integer(self.plan.channels_per_call), self.sub(channels, part.channel))
        inputs = integer(0)
        if self.plan.picks_inputs:
            place = self.total((image, self.shape.channels), part.channel)
            inputs = self.total(self.given[Argument.INPUTS], (place, INT.width // 8))
        with self.if_then(self.icmp_signed(">", left, integer(0))):
            if self.plan.picks_outputs:
                self._some_outputs(image, part, channels, [left, inputs])
            else:
                weights = self.total(self.given[Argument.WEIGHTS], (part.index, self.panel.outputs * self.size))
                self.multiply(self.panel, image, weights, part, channels, [left, inputs])

    def _some_outputs(self, image: Value, part: Part, channels: Value, inputs: list[Value]) -> None:
        """Cut a panel with the fewest vectors that hold the image's used outputs, and multiply by it."""
        first = self.sdiv(self.given[Range.OFFSET], integer(self.size))
        wanted = self.sub(self.load_int(self._list(Argument.OUTPUT_COUNTS), image), first)
        kept = self.smaller(wanted, integer(self.panel.outputs))
        place = self.total((image, self.shape.outputs), first)
        outputs = self.total(self.given[Argument.OUTPUTS], (place, INT.width // 8))
        before = part.index if self.plan.picks_inputs else self.add(part.index, part.channel)
        source = self.total(self.given[Argument.WEIGHTS], (before, self.plan.lanes * self.size))
        scratch, below = self.given[Argument.SCRATCH], 0
        for count in range(1, len(self.panel.lanes) + 1):  # the panel's first vector, its first two, and so on
            panel = Panel(self.panel.lanes[:count], self.panel.pixels, self.panel.first)
            fits = (
                self.icmp_signed(">", kept, integer(below)),
                self.icmp_signed("<=", kept, integer(panel.outputs)),
            )
            with self.if_then(self.and_(*fits)):
                self.call(self.micro.cut(panel, part.segment), [source, scratch, outputs, kept, inputs[1], inputs[0]])
                self.multiply(panel, image, scratch, part, channels, inputs)
            below = panel.outputs

    def _list(self, argument: Argument) -> Value:
        return self.pointer(self.given[argument])
