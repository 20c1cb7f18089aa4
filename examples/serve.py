"""A small service for a trained network: images come in by HTTP, whatever is waiting is answered as one batch.

    pip install 'dyncomp[serve]'
    python examples/serve.py OUTPUT/checkpoints/KEY.safetensors --threads 2 --batch 32
    curl --data-binary @image.png http://127.0.0.1:8000/predict
    {"class":"sneaker","confidence":0.98,"batch":3,"ms":1.4}

The body of a request is an image file (PNG, JPEG, whatever PIL reads) or an array in NumPy's format (.npy), uint8 or
floats from 0 to 1. `GET /health` tells what is served and how fast. Ctrl-C ends it, answers what is waiting, and prints
the latencies. See docs/from-checkpoint-to-service.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import queue
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
from types import TracebackType
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from torch import Tensor

import dyncomp

NUMPY = b"\x93NUMPY"
MIB = 1024 * 1024
REMEMBERED = 100_000
"""requests whose latency is kept for the percentiles"""
QUEUE_PER_BATCH = 16
"""full batches that may wait per worker; more is refused, as nobody would wait for it"""


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
        async for part in request.stream():
            body += part
            if len(body) > most_bytes:
                return _refused(413, f"the body is longer than {most_bytes} bytes; send a smaller image")
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
    parser.add_argument("--quiet", action="store_true", help="do not print every batch")
    found = parser.parse_args(given)
    if not 0 <= found.wait_ms <= 60_000:
        parser.error(f"--wait-ms {found.wait_ms}: give milliseconds from 0 to 60000")
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
    """Serve until interrupted; the exit status: 2 for what the user can mend, told in one line."""
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
        host, port = listening.getsockname()[:2]
        print(f"serving {net.spec} on {net.backbone} at http://{host}:{port}, {options.threads} workers", flush=True)
        app = make_app(batcher, options.most_mib * MIB)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
        with suppress(KeyboardInterrupt):  # uvicorn has ended in order, and says why
            server.run(sockets=[listening])
    print(batcher.times, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
