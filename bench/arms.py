"""Arms of ingest's measurements: one load on one server, and what each round of it gave."""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import urlsplit

from typing_extensions import override

from bench import wrk
from bench.errors import BenchError
from bench.events import body
from bench.figures import UNKNOWN, per
from bench.parts import load
from bench.processes import run_part
from bench.scale import BODIES, USERS
from bench.stage import Stage


class Serving(Protocol):
    """A server that takes POST /events."""

    def url(self) -> str: ...

    def pids(self) -> list[int]:
        """All processes whose CPU a request costs."""
        ...


class Arm:
    """Bodies of `batch` events to one server; each round adds a value to each list."""

    def __init__(self, stage: Stage, server: Serving, batch: int) -> None:
        self._stage: Final = stage
        self._server: Final = server
        self._batch: Final = batch
        self._results: list[load.Result] = []

    def measure(self) -> None:
        """Raises `BenchError` if anything was not accepted, or nothing was."""
        result = self._run()
        if result.others or not result.requests:
            raise BenchError(
                f"the server accepted {result.requests} requests and answered {result.others}"
            )
        self._results.append(result)

    def _run(self) -> load.Result:
        scale, address = self._stage.scale, urlsplit(self._server.url())
        options = load.Options(
            address.hostname or "",
            address.port or 0,
            self._batch,
            BODIES[self._batch],
            USERS,
            self._server.pids(),
            scale.warm_s,
            scale.produce_s,
        )
        return run_part(load, options, load.Result)

    @property
    def request_rates(self) -> list[float]:
        """Requests a second."""
        return [result.requests / result.seconds for result in self._results]

    @property
    def event_rates(self) -> list[float]:
        """Events a second."""
        return [rate * self._batch for rate in self.request_rates]

    @property
    def cpu_us(self) -> list[float]:
        """Microseconds of the servers' CPU a request."""
        return [_served_cpu_s(result) * 1e6 / result.requests for result in self._results]

    @property
    def cpu_us_an_event(self) -> list[float]:
        return [value / self._batch for value in self.cpu_us]

    @property
    def requests_a_cpu_s(self) -> list[float]:
        """Requests for one second of the servers' CPU."""
        return [per(result.requests, _served_cpu_s(result)) for result in self._results]

    @property
    def client_percent(self) -> list[float]:
        """The load client's share of one core."""
        return [100 * result.cpu_s / result.seconds for result in self._results]


class CheapArm(Arm):
    """The same body again and again, by the client that takes least where it is there."""

    @override
    def _run(self) -> load.Result:
        if not wrk.is_there():
            return super()._run()
        url, pids = f"{self._server.url()}/events", self._server.pids()
        scale, events = self._stage.scale, body(0, self._batch, USERS)

        def run(seconds: float) -> load.Result:
            connections = BODIES[self._batch]
            return wrk.run(url, events, connections, seconds, pids, self._stage.folder)

        run(scale.warm_s)
        return run(scale.produce_s)


def _served_cpu_s(result: load.Result) -> float:
    return UNKNOWN if result.watched_cpu_s is None else result.watched_cpu_s
