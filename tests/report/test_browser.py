"""The page in a browser, from disk and offline: it draws, sorts, filters and selects, on wide screens and phones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dyncomp.report import results
from dyncomp.report.page import page_of
from dyncomp.store import Store
from tests.records import CONFIG, failed_cell, make_store, skipnet_cell, static_cell

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")

EVIL = "<img src=x onerror=alert(1)>\"'&"


@dataclass
class Opened:
    """A page, what its console said, and what it asked of the network."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def opened(browser: Any, store: Store, width: int = 1400, height: int = 900, scheme: str = "light") -> Opened:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    found = Opened(page)
    page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda asked: found.requests.append(asked.url))
    page.goto((store.folder / "report.html").as_uri())
    return found


def write_page(store: Store) -> None:
    """The page alone, without the plots' files."""
    (store.folder / "report.html").write_text(page_of(store), encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("seen") / "out", (0, 1))
    write_page(store)
    return store


@pytest.fixture(scope="module")
def wide(browser: Any, written: Store) -> Opened:
    """On a screen; what a test changes, it puts back."""
    return opened(browser, written)


def brightness(page: Any) -> int:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def draws(found: Opened, store: Store, width: int, height: int) -> None:
    shown = [plot for plot in found.page.locator("[data-plot]").all() if plot.is_visible()]
    assert len(shown) >= 3
    for plot in shown:
        assert plot.locator("svg").bounding_box()["width"] > 0.7 * min(width, 500)
    assert found.errors == []
    assert found.requests == [(store.folder / "report.html").as_uri()]
    assert found.page.evaluate("document.documentElement.scrollWidth") == width
    first_screen = ("#recommended", "[data-overview]", *(("#networks tbody tr",) if width > 1200 else ()))
    for place in first_screen:
        assert found.page.locator(place).first.bounding_box()["y"] < height


def test_it_draws_without_error_and_without_network(wide: Opened, written: Store) -> None:
    draws(wide, written, 1400, 900)
    assert brightness(wide.page) > 600


def test_on_a_phone_in_the_dark(browser: Any, written: Store) -> None:
    found = opened(browser, written, 390, 844, "dark")
    draws(found, written, 390, 844)
    assert brightness(found.page) < 150


SCALE = """
(plot, side) => [...plot.querySelectorAll("text")].map(text => {
  const box = text.getBoundingClientRect(), value = Number(text.textContent.replace("\u2212", "-"));
  return [value, side === "x" ? box.x + box.width / 2 : box.y + box.height / 2];
}).filter(([value]) => !Number.isNaN(value))
"""
"""the ticks of a plot whose labels are numbers: (value, place in pixels)"""


def point_of(plot: Any, spec: str) -> Any:
    """The marker of a network: of the markers of its mark, which are the ends of its error bars too, the largest."""
    markers = plot.locator(f"[data-spec^={spec}] use")
    boxes = "all => all.map(one => one.getBoundingClientRect())"
    sizes = markers.evaluate_all(boxes + ".map(box => box.width * box.height)")
    return markers.nth(sizes.index(max(sizes)))


def fitted(ticks: list[list[float]], place: float) -> float:
    """The value at a place of a linear axis, by the labels of its ticks."""
    (value, here), (last, there) = ticks[0], ticks[-1]
    return value + (place - here) * (last - value) / (there - here)


def test_points_are_where_the_numbers_say_for_every_cost(wide: Opened, written: Store) -> None:
    page = wide.page
    rows = results(written).query("method == 'skipnet' and batch_size == 64")
    wanted = {0: rows["macs"].mean() / 1e6, 2: (1 / rows["speedup_realised"]).mean()}
    select = page.locator("[data-overview] select")
    assert select.locator("option").count() == 3
    for number, x in wanted.items():
        select.select_option(index=number)
        (plot,) = [plot for plot in page.locator("[data-overview] [data-plot]").all() if plot.is_visible()]
        point = point_of(plot, "skipnet").bounding_box()
        numbers = plot.evaluate(SCALE, "x"), plot.evaluate(SCALE, "y")
        bottom = max(place for _, place in numbers[1])
        along = [x_tick for x_tick, y_tick in zip(*numbers, strict=True) if y_tick[1] == bottom]
        up = [y_tick for y_tick in numbers[1] if y_tick[1] < bottom]
        assert fitted(along, point["x"] + point["width"] / 2) == pytest.approx(x, rel=0.02)
        assert fitted(up, point["y"] + point["height"] / 2) == pytest.approx(rows["top1"].mean(), rel=0.005)
    select.select_option(index=0)


def test_the_training_of_a_cell_is_drawn_when_it_is_opened(wide: Opened) -> None:
    details = wide.page.locator("details", has=wide.page.locator("[data-plot]")).first
    plot = details.locator("[data-plot]")
    assert not plot.is_visible()
    details.locator("summary").first.click()
    assert plot.locator("svg").bounding_box()["height"] > 100
    names = plot.locator("title").all_text_contents()
    assert names[:2] == ["loss", "multiply-adds asked for, of the plain network's"]
    details.locator("summary").first.click()


def test_rows_are_sorted_and_filtered(wide: Opened, written: Store) -> None:
    page = wide.page
    section = page.locator("#results")
    header = section.locator("th", has_text="MACs").first
    place = header.evaluate("head => [...head.parentElement.children].indexOf(head)")

    def shown() -> list[float]:
        rows = section.locator("tbody tr").all()
        values = [row.locator("td").nth(place).get_attribute("data-sort") for row in rows if row.is_visible()]
        return [float(value) for value in values if value]  # what failed has none, and stands last

    header.locator("button").click()
    assert shown() == sorted(shown()) != shown()[::-1]
    header.locator("button").click()
    assert shown() == sorted(shown(), reverse=True)
    every = len(shown())
    section.locator("input").fill("condconv")
    assert 0 < len(shown()) < every
    section.locator("input").fill("")
    assert len(shown()) == every


def test_a_click_selects_the_network_everywhere(wide: Opened) -> None:
    page = wide.page

    def faint() -> set[str]:
        marks = page.locator("[data-overview] [data-plot]").first.locator("[data-spec]")
        found = "all => all.filter(one => getComputedStyle(one).opacity < 1).map(one => one.dataset.spec)"
        return set(marks.evaluate_all(found))

    page.locator("li[data-spec=condconv]").click()
    assert faint() == {"static", "skipnet(target=0.5)"}
    chosen = page.locator(".chosen").evaluate_all("all => [...new Set(all.map(one => one.dataset.spec))]")
    assert chosen == ["condconv"]
    page.locator("tr[data-spec=condconv]").first.click()
    assert faint() == set()
    assert page.locator(".chosen").count() == 0
    point_of(page.locator("[data-overview] [data-plot]").first, "condconv").click()
    assert faint() == {"static", "skipnet(target=0.5)"}
    page.locator("tr[data-spec=condconv]").first.click()


def failed(store: Store) -> None:
    static_cell(store)
    failed_cell(store)


def many(store: Store) -> None:
    for seed in range(10):
        static_cell(store, seed)
        for number in range(29):
            skipnet_cell(store, seed, spec=f"skipnet(target={number / 100})")


FOLDERS = {
    "empty": lambda store: None,
    "one network, one seed, no latency, a failure": failed,
    "names from files": lambda store: (static_cell(store), skipnet_cell(store, spec=EVIL, method=EVIL)),
    "300 cells": many,
}


@pytest.mark.parametrize("name", [*list(FOLDERS)[:-1], pytest.param("300 cells", marks=pytest.mark.slow)])
def test_any_folder_gives_a_sensible_page(name: str, browser: Any, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "out", CONFIG)  # type: ignore[arg-type]
    FOLDERS[name](store)
    write_page(store)
    found = opened(browser, store)
    assert found.errors == []
    assert len(found.requests) == 1
    assert found.page.locator("h1").is_visible()
    if EVIL in found.page.locator("body").inner_text():
        assert name == "names from files"
    rows = found.page.locator("#results tbody tr").count()
    assert rows == len(results(store))
    assert (store.folder / "report.html").stat().st_size < 10e6
