"""A small service for a trained network: images come in by HTTP, whatever is waiting is answered as one batch.

    pip install 'dyncomp[serve]'
    python examples/serve.py OUTPUT/checkpoints/KEY.safetensors --threads 2 --batch 32
    curl --data-binary @image.png http://127.0.0.1:8000/predict
    {"class":"sneaker","confidence":0.98,"batch":3,"ms":1.4}

The body of a request is an image file (PNG, JPEG, whatever PIL reads) or an array in NumPy's format (.npy), uint8 or
floats from 0 to 1. `GET /health` tells what is served and how fast. Ctrl-C or SIGTERM ends it: what has come is
answered, what is on its way has a few seconds, and the latencies are printed. See docs/from-checkpoint-to-service.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

import dyncomp

NUMPY = b"\x93NUMPY"
MIB = 1024 * 1024
REMEMBERED = 100_000
"""requests whose latency is kept for the percentiles"""
QUEUE_PER_BATCH = 16
"""full batches that may wait per worker; more is refused, as nobody would wait for it"""
GRACE_S = 5.0
"""seconds that requests have for the rest of their bodies once the service ends"""
SETTLE_S = 0.2
"""seconds that connections without a request stay open once the service ends: theirs may be on its way"""


@dataclass(frozen=True)
class Answer:
    """What a request gets: the prediction, with how many others it ran, and how long it took since it arrived."""

    prediction: dyncomp.Prediction
    batch: int
    ms: float


class Busy(Exception):
    """More is waiting than can be answered soon."""


@dataclass
class _Waiting:
    """An image (1, C, H, W), prepared, on its way to an answer."""

    image: Tensor
    future: Future[Answer]
    arrived: float


class Times:
    """Latencies of requests and how many there were; shared by the workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms: deque[float] = deque(maxlen=REMEMBERED)
        self.images = self.batches = 0
        self._first, self._last = math.inf, 0.0

    def add(self, arrived: Sequence[float], done: float) -> None:
        """Count a batch whose images came at these times and that was done at `done`, in seconds."""
        with self._lock:
            self._ms.extend(1000 * (done - one) for one in arrived)
            self.images += len(arrived)
            self.batches += 1
            self._first, self._last = min(self._first, *arrived), max(self._last, done)

    def figures(self) -> dict[str, Any]:
        """Images, batches, the 50th and 99th percentile of the latency, images per second; None where none came."""
        with self._lock:
            p50, p99 = np.percentile(list(self._ms), [50, 99]).tolist() if self._ms else (None, None)
            per_second = self.images / (self._last - self._first) if self.images else None
            return {
                "images": self.images,
                "batches": self.batches,
                "latency_ms_p50": p50,
                "latency_ms_p99": p99,
                "images_per_s": per_second,
            }

    def __str__(self) -> str:
        found = self.figures()
        if not found["images"]:
            return "no images were answered"
        return (
            f"{found['images']} images in {found['batches']} batches; "
            f"latency p50 {found['latency_ms_p50']:.2f} ms, p99 {found['latency_ms_p99']:.2f} ms; "
            f"{found['images_per_s']:.1f} images per second"
        )


class Batcher:
    """Worker threads that share one network; each takes whatever is waiting, at most `batch` images, and runs it.

    No image waits for others, unless for at most `wait_ms`: while the workers are busy, a batch gathers by itself.
    Each worker's operators run on `torch_threads` threads. Leaving the context answers what is waiting, and ends.
    """

    def __init__(
        self,
        net: dyncomp.Net,
        *,
        threads: int = 1,
        batch: int = 32,
        wait_ms: float = 0.0,
        torch_threads: int = 1,
        quiet: bool = False,
    ) -> None:
        self.net, self.batch, self.wait_ms, self.quiet = net, batch, wait_ms, quiet
        self.torch_threads = torch_threads
        self.times = Times()
        self.most_waiting = QUEUE_PER_BATCH * batch * threads
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._workers = [threading.Thread(target=self._work, name=f"worker {n}", daemon=True) for n in range(threads)]
        self._closed = threading.Event()

    def __enter__(self) -> Batcher:
        torch.set_num_threads(self.torch_threads)
        self._warm_up()
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for _ in self._workers:
            self._waiting.put(None)
        for worker in self._workers:
            worker.join()

    def submit(self, image: Tensor) -> Future[Answer]:
        """An answer to come for an image (1, C, H, W) from `net.preprocess`. Raises Busy."""
        if self._closed.is_set() or self._waiting.qsize() >= self.most_waiting:
            raise Busy
        future: Future[Answer] = Future()
        self._waiting.put(_Waiting(image, future, time.perf_counter()))
        return future

    def _warm_up(self) -> None:
        """Run batches of every size up to a factor of two, so that trials and code are made before anybody waits."""
        assert self.net.card is not None  # `dyncomp.load` wrote it
        side = self.net.card.image_size
        draw, size = torch.Generator().manual_seed(0), 1
        while True:
            count = min(size, self.batch)
            for _ in range(2):
                self.net.predict(torch.randn(count, self.net.card.in_channels, side, side, generator=draw))
            if size >= self.batch:
                return
            size *= 2

    def _work(self) -> None:
        torch.set_num_threads(self.torch_threads)  # of the operators that this thread calls
        while gathered := self._gathered():
            batch = [one for one in gathered if one.future.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)

    def _gathered(self) -> list[_Waiting]:
        """What is waiting, when something is; nothing once the end has come."""
        first = self._waiting.get()
        if first is None:
            return []
        batch, until = [first], time.perf_counter() + self.wait_ms / 1000
        while len(batch) < self.batch:
            left = until - time.perf_counter()
            try:
                more = self._waiting.get(timeout=left) if left > 0 else self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._waiting.put(None)  # the end comes after this batch
                break
            batch.append(more)
        return batch

    def _run(self, batch: Sequence[_Waiting]) -> None:
        begin = time.perf_counter()
        try:
            found = self.net.predict(torch.cat([one.image for one in batch]))
        except Exception as error:  # whoever waits is told; the worker goes on
            for one in batch:
                one.future.set_exception(error)
            return
        done = time.perf_counter()
        self.times.add([one.arrived for one in batch], done)
        for one, prediction in zip(batch, found, strict=True):
            one.future.set_result(Answer(prediction, len(batch), 1000 * (done - one.arrived)))
        if not self.quiet:
            sys.stdout.write(f"batch of {len(batch)}: {1000 * (done - begin):.2f} ms\n")  # whole lines, unlike print
            sys.stdout.flush()


def make_app(batcher: Batcher, most_bytes: int = 16 * MIB) -> FastAPI:
    """The web application in front of a running batcher; a body of more than `most_bytes` is refused."""
    app, net = FastAPI(title="dyncomp"), batcher.net

    @app.get("/health")
    def health() -> dict[str, Any]:
        """What is served, and how fast so far."""
        told = {"status": "ok", "method": net.spec, "backbone": net.backbone, "classes": len(net.classes)}
        return told | batcher.times.figures()

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        """The class of the image in the body."""
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    return _refused(413, f"the body is longer than {most_bytes} bytes; send a smaller image")
        except ClientDisconnect:  # who hung up does not hear this, but who was too slow for the end does
            return _refused(503, "the service ends; send this one again later")
        try:
            image = await run_in_threadpool(prepared, net, bytes(body))
            answer = await asyncio.wrap_future(batcher.submit(image))
        except dyncomp.DyncompError as error:
            return _refused(400, str(error))
        except Busy:
            return _refused(503, "too many images are waiting; send this one again later")
        except Exception as error:  # the network's own; what it says is for who runs the service
            print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            return _refused(500, "the network failed on this batch")
        name, confidence = answer.prediction
        return JSONResponse({"class": name, "confidence": confidence, "batch": answer.batch, "ms": answer.ms})

    return app


class Server(uvicorn.Server):
    """uvicorn's server, with an end in order: whose body has come gets an answer, the others have `grace_s` seconds.

    By itself uvicorn waits for open requests for ever, or cancels those that it should answer; it resets connections
    that it has not read from yet; and it lets SIGTERM kill the process in the end.
    """

    def __init__(self, app: ASGIApp, grace_s: float = GRACE_S) -> None:
        # loop and http are named since the end was written for these; `auto` takes others where they are installed
        options: dict[str, Any] = {"loop": "asyncio", "http": "h11", "ws": "none", "lifespan": "off"}
        super().__init__(uvicorn.Config(self._ending(app), interface="asgi3", log_level="warning", **options))
        self.grace_s = grace_s
        self._signals = 0
        self._until: float | None = None  # bodies have to be here by then, by the loop's clock; None while it serves
        self._limits: set[asyncio.Timeout] = set()  # of those that wait for more of a body

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second takes the grace away, the third ends the process."""
        self.should_exit = True
        self._signals += 1
        if self._signals > 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, answer what has come or comes within the grace, close what is left."""
        clock, state = asyncio.get_running_loop().time, self.server_state
        self._end_by(clock() + self.grace_s)
        await self._close_port(sockets or [])
        await asyncio.sleep(SETTLE_S)
        for connection in list(state.connections):
            connection.shutdown()  # at once where there is no request, otherwise after the answer
        while state.tasks or (state.connections and self._until is not None and clock() < self._until):
            if self._signals > 1:
                self._end_by(clock())
            await asyncio.sleep(0.02)
        for connection in list(state.connections):  # who does not fetch the answer
            connection.transport.abort()

    def _end_by(self, until: float) -> None:
        self._until = until
        for limit in self._limits:
            limit.reschedule(until)

    async def _close_port(self, sockets: Sequence[socket.socket]) -> None:
        """Take the connections that the system has made for us already, which closing would reset, and no others."""
        made = []
        for listening in sockets:
            with suppress(OSError):  # there are no more
                while True:
                    made.append(listening.accept()[0])
        for server in self.servers:
            server.close()
        for connection in made:
            with suppress(OSError):  # it has hung up
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state={}
        )
        return made

    def _ending(self, app: ASGIApp) -> ASGIApp:
        """The application; towards the end bodies have a limit, and answers say that no more are taken."""

        async def ending(scope: Scope, receive: Receive, send: Send) -> None:
            async def received() -> Message:
                limit = asyncio.timeout_at(self._until)
                self._limits.add(limit)
                try:
                    async with limit:
                        return await receive()
                except TimeoutError:
                    return {"type": "http.disconnect"}
                finally:
                    self._limits.discard(limit)

            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start" and self._until is not None:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
                await send(message)

            await app(scope, received, sent)

        return ending


def prepared(net: dyncomp.Net, body: bytes) -> Tensor:
    """The image (1, C, H, W) in a request's body. Raises a DyncompError that says why it is none."""
    return net.preprocess(_array_in(body) if body.startswith(NUMPY) else body)


def _array_in(body: bytes) -> np.ndarray[Any, Any]:
    """The array in a .npy file; one that claims to be longer than it is is not even allocated."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body) - file.tell():
            raise ValueError(f"{dtype} of shape {shape} in {len(body) - file.tell()} bytes")
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(body), allow_pickle=False)
    except Exception as error:  # a damaged header can fail anywhere in the reader
        reason = " ".join(str(error).split())[:200]
        raise dyncomp.DyncompError(f"the body is no whole .npy file ({reason}); send what numpy.save writes") from error
    return array


def _refused(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status_code=status)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what cannot be used ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Serve a trained network of dyncomp by HTTP.")
    parser.add_argument("checkpoint", help="what a benchmark run or dyncomp.save wrote (.safetensors)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument(
        "--port", type=_whole(0, 65535), default=8000, help="port; 0 for any that is free (default: 8000)"
    )
    parser.add_argument("--threads", type=_whole(1, 100_000), help="workers (default: cores / torch-threads)")
    parser.add_argument(
        "--torch-threads", type=_whole(1, 100_000), default=1, help="threads of each operator (default: 1)"
    )
    parser.add_argument("--batch", type=_whole(1, 100_000), default=32, help="images of a batch at most (default: 32)")
    parser.add_argument("--wait-ms", type=float, default=0.0, help="how long a batch waits for more (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    parser.add_argument("--include-path", action="append", default=[], help="plugin file or folder; may be repeated")
    parser.add_argument(
        "--most-mib", type=_whole(1, 100_000), default=16, help="longest body of a request (default: 16)"
    )
    parser.add_argument(
        "--grace-s",
        type=float,
        default=GRACE_S,
        help=f"seconds that open requests have for their bodies when it ends (default: {GRACE_S:g})",
    )
    parser.add_argument("--quiet", action="store_true", help="do not print every batch")
    found = parser.parse_args(given)
    if not 0 <= found.wait_ms <= 60_000:
        parser.error(f"--wait-ms {found.wait_ms}: give milliseconds from 0 to 60000")
    if not 0 <= found.grace_s <= 3600:
        parser.error(f"--grace-s {found.grace_s}: give seconds from 0 to 3600")
    if found.threads is None:
        found.threads = max(1, (os.cpu_count() or 1) // found.torch_threads)
    return found


def _whole(least: int, most: int) -> Any:
    """What reads an option that is a whole number in these bounds."""

    def whole(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value}: give a whole number from {least} to {most}")
        return value

    whole.__name__ = "whole number"  # what argparse calls it where it is none
    return whole


def main(given: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it, with status 0; 2 is for what the user can mend, told in one line."""
    options = arguments(given)
    Image.MAX_IMAGE_PIXELS = 50_000_000  # of a photograph; a small file may unfold to far more
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    dyncomp.keep_freed_memory()
    try:
        net = dyncomp.load(options.checkpoint, deploy=True, include_path=options.include_path, device=options.device)
        assert net.card is not None  # `load` wrote it
        net.card.preparation()  # raises where mean and deviation are not known
        listening = socket.create_server((options.host, options.port))
    except (dyncomp.DyncompError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    batcher = Batcher(
        net,
        threads=options.threads,
        batch=options.batch,
        wait_ms=options.wait_ms,
        torch_threads=options.torch_threads,
        quiet=options.quiet,
    )
    with batcher:
        server = Server(make_app(batcher, options.most_mib * MIB), options.grace_s)
        for number in (signal.SIGINT, signal.SIGTERM):  # from the line below on, before uvicorn listens to them
            signal.signal(number, server.handle_exit)
        host, port = listening.getsockname()[:2]
        print(f"serving {net.spec} on {net.backbone} at http://{host}:{port}, {options.threads} workers", flush=True)
        server.run(sockets=[listening])
    print(batcher.times, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
