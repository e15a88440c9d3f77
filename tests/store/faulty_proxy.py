"""An HTTP server in front of another one, slow or wrong now and then as a bad network is."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Seconds for which a stalled answer says nothing; a client that waits so long has hung.
SILENCE = 8.0
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date"}


@dataclass(frozen=True)
class Answer:
    """What the server behind has said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Fault = Callable[["Handler", Answer], None]


class Handler(BaseHTTPRequestHandler):
    """Passes a request on, then answers well or not."""

    protocol_version = "HTTP/1.1"
    server: "FaultyServer"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.one_more():
            time.sleep(self.server.latency)
            fault = self.server.next_fault()
            said = Answer(0, [], b"") if fault is refused else self.passed_on(body)
        fault(self, said)

    def passed_on(self, body: bytes) -> Answer:
        upstream = HTTPConnection(self.server.upstream, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        found = upstream.getresponse()
        said = Answer(found.status, found.getheaders(), found.read())
        upstream.close()
        return said

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    def send(self, said: Answer, length: int, body: bytes) -> None:
        self.send_response_only(said.status)
        for name, value in said.headers:
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def right(handler: Handler, said: Answer) -> None:
    """The true answer."""
    length = len(said.body)
    if handler.command == "HEAD":
        length = int(dict(said.headers).get("Content-Length", 0))
    handler.send(said, length, said.body)


def unavailable(handler: Handler, _said: Answer) -> None:
    """503, as S3 says when it is asked too often."""
    handler.send(Answer(503, [], b""), 0, b"")


def broken(handler: Handler, _said: Answer) -> None:
    """500, although what was asked for may well have been done."""
    handler.send(Answer(500, [], b""), 0, b"")


def refused(handler: Handler, _said: Answer) -> None:
    """The line is cut before anything is done."""
    handler.close_connection = True


def cut(handler: Handler, said: Answer) -> None:
    """The line is cut in the middle of the body."""
    handler.send(said, len(said.body), said.body[: len(said.body) // 2])
    handler.close_connection = True


def overlong(handler: Handler, said: Answer) -> None:
    """A Content-Length beyond the body's end."""
    handler.send(said, len(said.body) + 7, said.body)
    handler.close_connection = True


def truncated(handler: Handler, said: Answer) -> None:
    """Half the body with a Content-Length that fits the half."""
    half = said.body[: len(said.body) // 2]
    handler.send(said, len(half), half)


def garbled(handler: Handler, said: Answer) -> None:
    """A bit of the body is another one."""
    body = bytearray(said.body)
    if body:
        body[len(body) // 2] ^= 1
    handler.send(said, len(body), bytes(body))


def stalled(handler: Handler, said: Answer) -> None:
    """Half the body, then nothing for longer than anybody should wait."""
    handler.send(said, len(said.body), said.body[: len(said.body) // 2])
    handler.server.over.wait(SILENCE)
    handler.close_connection = True


def slow(handler: Handler, said: Answer) -> None:
    """The true answer, late."""
    time.sleep(0.3)
    right(handler, said)


FAULTS: tuple[Fault, ...] = (
    unavailable,
    broken,
    refused,
    cut,
    overlong,
    truncated,
    garbled,
    slow,
)


class FaultyServer(ThreadingHTTPServer):
    """Draws a share of the requests, and gives them the faults in turn.

    Args:
        upstream: HOST:PORT of the server behind.
        share: Of the requests that go wrong.
        faults: In which ways.
        latency: Seconds before any answer.
    """

    daemon_threads = True

    def __init__(
        self, upstream: str, share: float, faults: Sequence[Fault], latency: float = 0.0
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.share, self.faults = upstream, share, faults
        self.latency = latency
        self.over = threading.Event()
        self.requests = 0
        self.drawn = 0
        self.at_once = 0
        self.most_at_once = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        yield
        with self._lock:
            self.at_once -= 1

    def next_fault(self) -> Fault:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return right
            self.drawn += 1
            return self.faults[self.drawn % len(self.faults)]

    def handle_error(self, *_: object) -> None:
        """A client that has given up."""


@contextmanager
def faulty_proxy(
    upstream: str, share: float, faults: Sequence[Fault] = FAULTS, latency: float = 0.0
) -> Iterator[FaultyServer]:
    """A running proxy in front of an http URL."""
    server = FaultyServer(urlsplit(upstream).netloc, share, faults, latency)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
