"""The documents say what is true: their code runs, their commands are those of CI."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from dyncomp import build, save
from dyncomp.bench import benchmark
from dyncomp.cli import dyncomp_main
from dyncomp.conformance import CHECKS, Case
from dyncomp.errors import InvalidValue
from dyncomp.registry import METHODS, include_path
from dyncomp.samples import is_invalid

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVICE = (ROOT / "docs" / "from-checkpoint-to-service.md").read_text(encoding="utf-8")
EXPORT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECORDS = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")


@pytest.fixture
def linear_gate(tmp_path: Path) -> Path:
    """The tutorial's method, saved as the tutorial says."""
    (code,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    path = tmp_path / "linear_gate.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_the_tutorials_method_is_one_short_file(linear_gate: Path) -> None:
    assert len(linear_gate.read_text(encoding="utf-8").splitlines()) < 60


def test_the_tutorials_method_conforms(linear_gate: Path) -> None:
    include_path(linear_gate)
    case = Case(METHODS.create("linear_gate(share=0.5)"), "cifar_resnet8")
    for check in CHECKS.values():
        check(case)
    with pytest.raises(InvalidValue, match="share=2"):
        METHODS.create("linear_gate(share=2)")


def validated(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit status of `dyncomp validate` for that file, and what it prints."""
    monkeypatch.setattr(sys, "argv", ["dyncomp", "validate", str(path)])
    with pytest.raises(SystemExit) as caught:
        dyncomp_main()
    return caught.value.code, capsys.readouterr().out


@pytest.mark.parametrize(("fault", "status"), [("", 0), (".detach()", 1)])
def test_validate_prints_what_the_tutorial_shows(
    fault: str, status: int, linear_gate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = linear_gate.read_text(encoding="utf-8")
    assert code.count(".sigmoid()\n") == 1
    linear_gate.write_text(code.replace(".sigmoid()\n", f".sigmoid(){fault}\n"), encoding="utf-8")
    found, out = validated(linear_gate, monkeypatch, capsys)
    assert found == status
    shown = re.findall(r"```console\n\$ dyncomp validate linear_gate\.py\n(.*?)```", TUTORIAL, re.DOTALL)[status]
    pieces = [piece.strip("\n") for piece in re.split(r"^ *\.\.\.$", shown, flags=re.MULTILINE)]
    places = [out.index(piece) for piece in pieces]
    assert len(shown) > 300
    assert places == sorted(places)
    assert ("mend:   The loss does not reach that parameter" in out) == bool(status)


def test_the_tutorials_method_gets_its_row_in_the_report(linear_gate: Path, tmp_path: Path) -> None:
    table = benchmark(
        "linear_gate(share=[0.5,0.7])",
        backbone="cifar_resnet8",
        budget="1",
        batch_sizes=(8,),
        latency_seconds=0.1,
        include_path=(str(linear_gate),),
        output=str(tmp_path / "out"),
        controls="none",
    )
    assert list(table["spec"]) == ["static", "linear_gate(share=0.5)", "linear_gate(share=0.7)"]
    assert set(table["status"]) == {"ok"}
    assert "linear_gate" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def gain(nets: pd.DataFrame, over: str) -> str:
    """The README's gain over something, mean over the seeds with the mean of the margins; "" where there is none."""
    points, margin = nets[f"over_{over}_points"].mean(), nets[f"over_{over}_margin"].mean()
    return "" if pd.isna(points) else f"{points:+.1f} ± {margin:.1f}".replace("-0.0 ", "0.0 ").replace("+0.0 ", "0.0 ")


def test_the_readmes_table_is_that_of_the_run_it_names() -> None:
    (folder,) = set(re.findall(r"\]\((reports/[^/]+)/report\.md\)", README))
    results = pd.read_csv(ROOT / folder / "results.csv")
    block = re.search(r"^\| method \| top-1 \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert block is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block[1].splitlines()]
    assert {cells[0].strip("`") for cells in rows} == set(
        results.loc[results["role"].isin(["static", "method"]), "spec"]
    )
    for cells in rows:
        of_method = results[results["spec"] == cells[0].strip("`")]
        nets = of_method[of_method["role"].isin(["static", "method"])].drop_duplicates("key")  # one for each seed
        macs, static = nets["macs"].mean(), nets["macs_static"].mean()
        controls = ", ".join(filter(None, (gain(nets, control) for control in ("fixed", "random"))))
        timed = of_method.dropna(subset="batch_size").groupby("batch_size")
        realised = [
            f"{rows_of['speedup_realised'].mean():.2f}x" + " (!)" * any(map(is_invalid, rows_of["speedup_verdict"]))
            for _, rows_of in timed
        ]
        exchanged = nets["route_exchange_top1"].mean()
        assert cells == [
            cells[0],
            f"{nets['top1'].mean():.2f} %",
            f"{macs / 1e6:.2f} M ({macs / static:.2f}x)",
            gain(nets, "static_at_equal_macs"),
            controls,
            *realised,
            "" if pd.isna(exchanged) else f"{exchanged:.1f} %",
        ]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^python3 -m venv .*pytest.*$", README, re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("document", [README, SERVICE], ids=["README", "service"])
def test_the_code_that_uses_a_checkpoint_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build("skipnet", "cifar_resnet8", classes=3, in_channels=1, image_size=8)
    assert net.card is not None
    net.card = replace(net.card, mean=(0.5,), std=(0.25,))
    save(net, tmp_path / "checkpoint.safetensors")
    for name in ("image", "one", "two"):
        Image.new("RGB", (9, 12), "red").save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    blocks = [code for code in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "dyncomp.load(" in code]
    assert blocks
    names: dict[str, object] = {}
    for code in blocks:
        exec(code, names)
    assert (tmp_path / "deployed.safetensors").exists() or (tmp_path / "fast.safetensors").exists()


@pytest.mark.parametrize(
    "document",
    [README, TUTORIAL, EXPORT, SERVICE, ARCHITECTURE, CONTRIBUTING, RECORDS],
    ids=["README", "tutorial", "export", "service", "architecture", "contributing", "records"],
)
def test_files_that_a_document_names_exist(document: str) -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", document) + re.findall(
        r"`((?:dyncomp|tests|docs|reports|benchmarks)/[\w./-]+)`", document
    )
    assert named
    places = (ROOT, ROOT / "docs")  # what is code is named from the root, and links from where the page is
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
