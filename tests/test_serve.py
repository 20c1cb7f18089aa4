"""The example of a service: every answer is the network's own, bad input is told in one line, it ends in order."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import dyncomp
from dyncomp.core import Net, Prediction

pytest.importorskip("fastapi", reason="the service's own packages are not installed: pip install 'dyncomp[serve]'")

from examples.serve import Batcher, Busy, Server, Times, main, make_app, prepared

ROOT = Path(__file__).parents[1]
SIZE, CLASSES = 12, 5


def network(method: str = "static") -> Net:
    """Images differ in their classes, and where there are gates in their routes."""
    net = dyncomp.build(method, "cifar_resnet8", classes=CLASSES, in_channels=1, image_size=SIZE, seed=0)
    assert net.card is not None
    net.card = replace(net.card, classes=("ant", "bee", "cat", "dog", "emu"), mean=(0.5,), std=(0.25,))
    images = torch.cat([net.preprocess(image) for image in arrays(20)])
    state = net.state_dict()
    with torch.no_grad():
        for site in list(net.sites)[:1]:
            if f"model.{site}.gate.head.bias" in state:  # which all gates share
                state[f"model.{site}.gate.head.weight"].mul_(20)
                chance = net(images, sparse=False).trace[site].probability
                ordered = chance.logit().flatten().sort().values
                state[f"model.{site}.gate.head.bias"].sub_(ordered[9:11].mean())  # on no image's edge
        for _ in range(2):
            (bias,) = (value for name, value in state.items() if name.endswith("classifier.bias"))
            logits = net(images).logits
            bias.sub_(logits.mean(dim=0))
        (weight,) = (value for name, value in state.items() if name.endswith("classifier.weight"))
        scale = 2 / logits.std(dim=0).mean()
        weight.mul_(scale)
        bias.mul_(scale)
    return net


def arrays(count: int) -> list[np.ndarray[Any, Any]]:
    """Stripes of all directions and widths."""
    draw = np.random.default_rng(0)
    down, right = np.mgrid[:SIZE, :SIZE]
    waves = [np.sin(down * a + right * b + c) for a, b, c in draw.uniform(-2, 2, (count, 3))]
    return [(127.5 + 120 * wave).astype(np.uint8) for wave in waves]


def png(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dyncomp.save(network(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@dataclass(frozen=True)
class Reply:
    """What came back: the status, and the JSON in the body."""

    status: int
    told: dict[str, Any]


@dataclass(frozen=True)
class Client:
    """Asks a service at an address."""

    address: str

    def ask(self, path: str, body: bytes | None = None) -> Reply:
        """By POST where there is a body."""
        request = urllib.request.Request(f"{self.address}{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return Reply(reply.status, json.load(reply))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, json.load(error))

    def predict(self, body: bytes) -> Reply:
        return self.ask("/predict", body)


@contextmanager
def served(batcher: Batcher, most_bytes: int = 1_000_000, server: Server | None = None) -> Iterator[Client]:
    """The service in a thread of this process."""
    server = server or Server(make_app(batcher, most_bytes))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Batcher(dyncomp.deployed(network()), quiet=True) as batcher, served(batcher, 10_000) as client:
        yield client


@pytest.mark.parametrize("method", ["static", "skipnet", "condconv"])
@pytest.mark.parametrize("wait_ms", [0.0, 5.0])
def test_every_answer_is_the_networks_own(
    method: str, wait_ms: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dyncomp.save(network(method), tmp_path / "net")
    net, images = dyncomp.load(tmp_path / "net", deploy=True), arrays(60)
    alone = [net.predict(image)[0] for image in images]
    assert len({prediction.class_name for prediction in alone}) > 1
    routes = net(torch.cat([net.preprocess(image) for image in images])).trace.distinct()
    assert (routes > 1) == (method == "skipnet")
    batches: list[int] = []
    with (
        Batcher(net, threads=2, batch=8, wait_ms=wait_ms) as batcher,
        served(batcher) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        for kind in (png, npy):
            replies = list(pool.map(client.predict, map(kind, images)))
            for reply, wanted in zip(replies, alone, strict=True):
                assert reply.status == 200, reply.told
                told = reply.told
                assert told["class"] == wanted.class_name
                assert told["confidence"] == pytest.approx(wanted.confidence, rel=1e-3)
                assert told["ms"] > 0
                batches.append(told["batch"])
        health = client.ask("/health").told
    assert health["status"] == "ok"
    assert (health["method"], health["classes"], health["images"]) == (method, CLASSES, 120)
    assert 0 < health["latency_ms_p50"] <= health["latency_ms_p99"]
    assert max(batches) <= 8
    if wait_ms:
        assert max(batches) > 1
    out = capfd.readouterr().out
    assert len(re.findall(r"^batch of \d+: [\d.]+ ms$", out, re.MULTILINE)) == health["batches"]
    assert re.fullmatch(
        r"120 images in \d+ batches; latency p50 [\d.]+ ms, p99 [\d.]+ ms; [\d.]+ images per second",
        str(batcher.times),
    )


BAD: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "is no image"),
    "text": (b"hello", 400, "is no image; give a file that PIL can read"),
    "a truncated file": (png(arrays(1)[0])[:80], 400, "cannot be read as an image"),
    "a truncated array": (npy(arrays(1)[0])[:-5], 400, "no whole .npy file"),
    "an array without a header": (b"\x93NUMPY", 400, "no whole .npy file"),
    "a header of nonsense": (b"\x93NUMPY\x01\x00\x06\x00{'a': ", 400, "no whole .npy file"),
    "objects": (npy(np.array([{}], dtype=object)), 400, "no whole .npy file"),
    "a huge array": (npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(9**9)"), 400, "no whole .npy file"),
    "three channels": (npy(np.zeros((4, 4, 3), np.uint8)), 400, "the network sees 1 channel: give"),
    "integers": (npy(np.zeros((4, 4), np.int64)), 400, "an array of int64; give uint8"),
    "too long": (b"x" * 10_001, 413, "longer than 10000 bytes; send a smaller image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(case: str, client: Client) -> None:
    body, status, message = BAD[case]
    reply = client.predict(body)
    assert reply.status == status
    assert message in reply.told["error"]
    assert "\n" not in reply.told["error"]
    assert client.predict(png(arrays(1)[0])).status == 200  # it goes on


def test_other_addresses_and_verbs_are_refused(client: Client) -> None:
    assert client.ask("/predict").status == 405
    assert client.ask("/elsewhere").status == 404


class Slow:
    """In a network's place: waits until it may answer, and fails where asked to."""

    def __init__(self) -> None:
        self.card = network().card
        self.may = Event()
        self.sizes: list[int] = []
        self.fails = False

    def predict(self, images: Tensor) -> list[Prediction]:
        self.may.wait()
        self.sizes.append(len(images))
        if self.fails:
            raise RuntimeError("out of\nmemory")
        return [Prediction("ant", 1.0)] * len(images)


def slow_batcher(**more: Any) -> tuple[Slow, Batcher]:
    slow = Slow()
    slow.may.set()
    batcher = Batcher(slow, quiet=True, **more)  # type: ignore[arg-type]
    return slow, batcher


def test_whatever_is_waiting_is_one_batch_and_too_much_is_refused() -> None:
    slow, batcher = slow_batcher(batch=4)
    batcher.most_waiting = 7
    image = torch.zeros(1, 1, SIZE, SIZE)
    with batcher:
        slow.sizes.clear()
        slow.may.clear()
        futures = [batcher.submit(image)]
        while batcher._waiting.qsize():
            pass  # the worker takes the first
        futures += [batcher.submit(image) for _ in range(7)]
        with pytest.raises(Busy):
            batcher.submit(image)
        futures[3].cancel()
        slow.may.set()
    assert slow.sizes == [1, 3, 3]
    assert [future.cancelled() for future in futures] == [number == 3 for number in range(8)]
    assert {future.result().batch for future in futures if not future.cancelled()} == {1, 3}
    with pytest.raises(Busy):
        batcher.submit(image)


def test_a_network_that_fails_is_told_and_the_worker_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    slow, batcher = slow_batcher()
    batcher.net.preprocess = network().preprocess  # type: ignore[method-assign]
    with batcher, served(batcher) as client:
        slow.fails = True
        reply = client.predict(png(arrays(1)[0]))
        assert (reply.status, reply.told) == (500, {"error": "the network failed on this batch"})
        slow.fails = False
        assert client.predict(png(arrays(1)[0])).status == 200
    assert capfd.readouterr().err == "error: RuntimeError: out of memory\n"


class Line:
    """A connection to a service, by hand: half of a request can be sent."""

    def __init__(self, client: Client) -> None:
        host, port = client.address.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def send(self, body: bytes) -> None:
        """A whole request."""
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def begin(self, length: int) -> None:
        """Everything but the body; the service reads it when this returns."""
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        self.socket.sendall(head.encode())
        found = b""
        while not found.endswith(b"\r\n\r\n"):
            found += self.socket.recv(1)
        assert found.startswith(b"HTTP/1.1 100 ")

    def rest(self) -> bytes:
        """All that comes until the service closes the connection."""
        with self.socket:
            return b"".join(iter(lambda: self.socket.recv(65536), b""))


def image_batcher(**more: Any) -> tuple[Slow, Batcher]:
    """A slow network that takes images."""
    slow, batcher = slow_batcher(**more)
    batcher.net.preprocess = network().preprocess  # type: ignore[method-assign]
    return slow, batcher


def test_what_has_come_is_answered_however_long_it_takes() -> None:
    slow, batcher = image_batcher(batch=2)
    with batcher:
        server = Server(make_app(batcher), grace_s=0.0)
        slow.may.clear()
        with served(batcher, server=server) as client:
            idle, *lines = [Line(client) for _ in range(6)]
            for line in lines:
                line.send(png(arrays(1)[0]))
            while batcher._waiting.qsize() < 3:
                time.sleep(0.001)  # two run at most, the others wait
            server.should_exit = True
            while server.servers[0].is_serving():
                time.sleep(0.001)
            with pytest.raises(ConnectionRefusedError):
                Line(client)
            assert idle.rest() == b""  # from then on only what has come is waited for, as there is no grace
            slow.may.set()
            answers = [line.rest() for line in lines]
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer


def test_what_the_port_holds_at_the_end_is_answered() -> None:
    _, batcher = image_batcher()
    lines: list[Line] = []

    class Ends(Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            kept.send(png(arrays(1)[0]))  # on a connection that is open
            for _ in range(3):  # on connections that nobody has taken, as the loop stands still
                lines.append(Line(client))
                lines[-1].send(png(arrays(1)[0]))
            await super().shutdown(sockets)

    with batcher:
        server = Ends(make_app(batcher))
        with served(batcher, server=server) as client:
            kept = Line(client)
            kept.send(b"no image")
            assert kept.socket.recv(65536).startswith(b"HTTP/1.1 400 ")
            server.should_exit = True
        answers = [line.rest() for line in (kept, *lines)]  # the system keeps them
    assert len(answers) == 4
    for answer in answers:
        assert b"HTTP/1.1 200 " in answer


def test_a_body_that_comes_within_the_grace_is_answered() -> None:
    _, batcher = image_batcher()
    body = png(arrays(1)[0])
    with batcher:
        server = Server(make_app(batcher), grace_s=30)
        with served(batcher, server=server) as client:
            line, idle = Line(client), Line(client)
            line.begin(len(body))
            line.socket.sendall(body[:10])
            server.should_exit = True
            assert idle.rest() == b""  # closed: it had no request
            line.socket.sendall(body[10:])
            assert line.rest().startswith(b"HTTP/1.1 200 ")


def test_a_second_signal_takes_the_grace_away(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batcher = image_batcher()
    defaults: list[tuple[int, Any]] = []
    monkeypatch.setattr(signal, "signal", lambda *given: defaults.append(given))
    with batcher:
        server = Server(make_app(batcher), grace_s=3600)
        with served(batcher, server=server) as client:
            line = Line(client)
            line.begin(1000)
            server.handle_exit(signal.SIGTERM, None)
            assert defaults == []
            server.handle_exit(signal.SIGINT, None)
            answer = line.rest()
    assert defaults == [(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)]
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the service ends; send this one again later" in answer


def test_a_client_that_hangs_up_in_its_body_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    _, batcher = image_batcher()
    with batcher, served(batcher) as client:
        line = Line(client)
        line.begin(1000)
        line.socket.sendall(b"abc")
        line.socket.close()
        assert client.predict(png(arrays(1)[0])).status == 200
    assert capfd.readouterr() == ("", "")


def test_nothing_answered_has_no_percentiles() -> None:
    assert str(Times()) == "no images were answered"
    assert Times().figures()["latency_ms_p50"] is None


def test_a_request_is_prepared_as_the_network_does_it() -> None:
    net, (image,) = network(), arrays(1)
    for body in (png(image), npy(image)):
        assert torch.equal(prepared(net, body), net.preprocess(image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["gone.safetensors"],
            r"error: gone\.safetensors is not a checkpoint of dyncomp \(no such file\); give one .*",
        ),
        (["{saved}", "--device", "gpu7"], "error: device 'gpu7' is not available .*"),
        (["{saved}", "--include-path", "gone.py"], r"error: gone\.py: no such file or folder; .*"),
        (["{saved}", "--host", "nowhere.invalid"], "error: .*"),
        (["{saved}", "--port", "{taken}"], "error: .*in use.*"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_status_2(
    arguments: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dyncomp, "keep_freed_memory", lambda: None, raising=False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # set back afterwards
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([text.format(saved=saved, taken=port) for text in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(message, err.strip())


@pytest.mark.parametrize(
    "option", [["--threads", "0"], ["--batch", "many"], ["--wait-ms", "-1"], ["--grace-s", "nan"], ["--port", "99999"]]
)
def test_options_out_of_range_are_status_2(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["net.safetensors", *option])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@contextmanager
def process(saved: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The service in a process of its own."""
    command = [sys.executable, str(ROOT / "examples" / "serve.py"), str(saved), "--port", "0", "--threads", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as service:
        try:
            assert service.stdout is not None
            found = re.fullmatch(
                r"serving static on cifar_resnet8 at (http://127\.0\.0\.1:\d+), 2 workers",
                service.stdout.readline().strip(),
            )
            assert found
            yield service, Client(found[1])
        finally:
            service.kill()


def test_it_serves_until_it_is_interrupted_though_a_body_is_half_sent(saved: Path) -> None:
    with process(saved, "--grace-s", "0.1") as (service, client):
        net, images = dyncomp.load(saved), arrays(20)
        with ThreadPoolExecutor(5) as pool:
            told = [reply.told["class"] for reply in pool.map(client.predict, map(png, images))]
        assert told == [prediction.class_name for prediction in net.predict(images)]
        half = Line(client)
        half.begin(1000)
        half.socket.sendall(b"abc")
        service.send_signal(signal.SIGINT)
        assert half.rest().startswith(b"HTTP/1.1 503 ")
        out, err = service.communicate(timeout=30)
    assert service.returncode == 0, err
    assert err == ""
    assert out.count("batch of ") >= 1
    assert re.search(r"^20 images in \d+ batches; latency p50 ", out.splitlines()[-1])


def test_sigterm_at_once_prints_the_latencies_too(saved: Path) -> None:
    with process(saved) as (service, _):
        service.send_signal(signal.SIGTERM)
        out, err = service.communicate(timeout=30)
    assert (service.returncode, out, err) == (0, "no images were answered\n", "")
