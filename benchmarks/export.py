"""Every format x method x form, tried on images of different routes, and timed: the table of docs/export.md.

    python -m benchmarks.export [--methods SPEC ...] [--again]

Results go to benchmarks/export.json cell by cell, so that a killed run goes on where it was; `--again` measures anew. A
cell holds what came out: `worst`, the largest difference of a logit from the network's; `wrong`, images of another
answer; `routes`, how many different ones the images take; `static` and `itself`, how many times as fast at batch 1 as
the exported static backbone in that engine, and as the network itself, `deployed`; or `error`. Those of
torch.compile hold `wrong` of 60 images one by one, and `breaks`, the breaks in its graph, counted with the backend
"eager": what splits a graph is found before a backend sees it.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dyncomp
from benchmarks.divided import divided, images_for
from dyncomp.core import Net
from dyncomp.errors import DyncompError
from dyncomp.export import Exported, export_network
from dyncomp.export.formats import FORMATS
from dyncomp.export.write import TOLERANCE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "export.json"
TABLE = ROOT / "docs" / "export.md"
BACKBONE = "cifar_resnet14(width=0.5)"
IMAGES, TIMED, ROUNDS = 200, 40, 9
FORMS = ("dense", "routed")
COMPILE, COMPILED = "torch.compile", 60
BEGIN, END = "<!-- table: python -m benchmarks.export -->", "<!-- end of table -->"

Run = Callable[[NDArray[Any]], object]


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="*", default=[*dyncomp.list_methods(), "model_ensemble(cascade=True)"])
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cells: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for spec in given.methods:
        _measure(spec, cells, given.again)
    _write_table(cells)


def _measure(spec: str, cells: dict[str, Any], again: bool) -> None:
    """All cells of one method."""
    wanted = [(f, form) for f in FORMATS for form in FORMS if again or _key(spec, f, form) not in cells]
    if not wanted and _key(spec, COMPILE, "sparse") in cells:
        return
    net = divided(spec, BACKBONE)
    images = images_for(net, IMAGES, seed=1)
    with torch.no_grad():
        output = net(images)
    routes = output.trace.distinct() if net.sites else 1
    if again or _key(spec, COMPILE, "sparse") not in cells:
        cells[_key(spec, COMPILE, "sparse")] = _compiled(net, images[:COMPILED], output.logits[:COMPILED])
    for name, form in wanted:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"net{FORMATS[name].suffix}"
            try:
                exported = export_network(net, path, name, form == "routed")
                cell = _compared(exported, images, output.logits) | {"routes": routes}
                cell |= _timed(exported, net, name, images.numpy())
            except DyncompError as error:
                cell = {"error": str(error)}
        cells[_key(spec, name, form)] = cell
        RESULTS.write_text(json.dumps(cells, indent=1, sort_keys=True) + "\n")
        print(spec, name, form, cell, flush=True)


def _key(spec: str, name: str, form: str) -> str:
    return f"{spec} | {name} | {form}"


def _compared(exported: Exported, images: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    """All images at once, and one by one."""
    found = [exported(images.numpy()), np.concatenate([exported(image[None].numpy()) for image in images])]
    off = max(float(np.abs(logits - wanted.numpy()).max()) for logits in found)
    wrong = max(int((logits.argmax(1) != wanted.numpy().argmax(1)).sum()) for logits in found)
    return {"worst": off, "wrong": wrong, "one_image": exported.facts["one_image"]}


def _compiled(net: Net, images: torch.Tensor, wanted: torch.Tensor) -> dict[str, int]:
    """The network itself under torch.compile."""

    def logits(image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = net(image, record=False).logits
        return found

    with torch.no_grad():
        torch._dynamo.reset()
        breaks = torch._dynamo.explain(logits)(images[:1]).graph_break_count
        torch._dynamo.reset()
        compiled = torch.compile(logits, backend="eager")
        found = torch.cat([compiled(image[None]) for image in images])
    off = (found - wanted).abs().amax(1) > TOLERANCE
    return {"wrong": int(off.sum()), "breaks": breaks}


def _timed(exported: Exported, net: Net, name: str, images: NDArray[Any]) -> dict[str, float]:
    """Speed-ups at batch 1: medians over rounds, in each of which every runner takes the same images in turn."""
    with tempfile.TemporaryDirectory() as folder:
        plain = dyncomp.build("static", BACKBONE, classes=10, in_channels=1, image_size=28)
        static = export_network(plain, Path(folder) / f"static{FORMATS[name].suffix}", name)
    ready = dyncomp.deployed(net)

    def itself(image: NDArray[Any]) -> object:
        with torch.inference_mode():
            return ready(torch.from_numpy(image), record=False).logits

    runs: dict[str, Run] = {"exported": exported.run, "static": static.run, "itself": itself}
    seconds: dict[str, list[float]] = {runner: [] for runner in runs}
    for _ in range(ROUNDS + 1):  # the first warms up
        for runner, run in runs.items():
            begin = time.perf_counter()
            for i in range(TIMED):
                run(images[i : i + 1])
            seconds[runner].append(time.perf_counter() - begin)

    def ratio(runner: str) -> float:
        return median(a / b for a, b in zip(seconds[runner][1:], seconds["exported"][1:], strict=True))

    return {"static": ratio("static"), "itself": ratio("itself")}


def _write_table(cells: Mapping[str, Any]) -> None:
    """Put the table between its markers."""
    specs = list(dict.fromkeys(key.split(" | ")[0] for key in sorted(cells)))
    columns = [f"{name}: {form}" for name in FORMATS for form in FORMS]
    columns = ["method", "routes", *columns, "so", "torch.compile: wrong, breaks"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for spec in specs:
        row = {(name, form): cells.get(_key(spec, name, form), {}) for name in FORMATS for form in FORMS}
        routes = max(cell.get("routes", 0) for cell in row.values())
        lines.append(
            f"| `{spec}` | {routes} | {' | '.join(map(_shown, row.values()))} | {_so(row)} | {_broken(cells, spec)} |"
        )
    text, table = TABLE.read_text(), "\n".join(lines)
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    TABLE.write_text(between.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text))


def _broken(cells: Mapping[str, Any], spec: str) -> str:
    cell = cells.get(_key(spec, COMPILE, "sparse"))
    return f"{cell['wrong']} of {COMPILED}, {cell['breaks']}" if cell else "not measured"


def _works(cell: Mapping[str, Any]) -> bool:
    return bool(cell.get("worst", 1.0) <= TOLERANCE)


def _shown(cell: Mapping[str, Any]) -> str:
    if "error" in cell:
        return "no"
    if not cell:
        return "not measured"
    said = f"{cell['static']:.2f}x, {cell['itself']:.2f}x"
    return said if _works(cell) else f"{said}, {cell['wrong']} of {IMAGES} wrong (by {cell['worst']:.1g})"


def _so(row: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    dense, routed = ([name for name in FORMATS if _works(row[name, form])] for form in FORMS)
    if len(routed) == len(FORMATS):
        batch = "batch 1" if row["onnx", "routed"]["one_image"] else "any batch"
        return f"works ({batch})"
    if routed:
        return f"works as {', '.join(routed)}"
    if len(dense) < len(FORMATS):
        return f"dense as {', '.join(dense)}" if dense else "no"
    return "works: nothing to route" if "decides nothing" in str(row["onnx", "routed"]) else "dense only"


if __name__ == "__main__":
    main()
