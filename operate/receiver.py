"""An HTTP server that takes deliveries and tells what it got: `keylane receive`, and the demo's."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import orjson
from aiohttp import web

from keylane.errors import ConfigurationError
from operate.exits import DONE
from operate.interrupt import Interrupt, Interrupted, run

OK: Final = 200
#: What a user is answered whose deliveries are to fail.
FAILURE: Final = 500
#: Above what `keylane ingest` takes by default.
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
#: Characters of a payload that a line shows; `--json` shows all.
SHOWN_CHARACTERS: Final = 200
#: Seconds that requests in flight get at the end.
DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One attempt as a destination saw it."""

    user: str
    id: str
    attempt: int
    position: str
    payload: bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "user": self.user,
            "id": self.id,
            "attempt": self.attempt,
            "position": self.position,
            "payload": _decoded(self.payload),
        }


#: Which status an arrival is answered with.
Answer = Callable[[Arrival], int]
#: Told of every arrival with its answer, in the order of the answers.
Watch = Callable[[Arrival, int], None]


class Receiver:
    """Serves any path until closed."""

    def __init__(self, answer: Answer, watch: Watch, *, delay_s: float = 0.0) -> None:
        self._answer = answer
        self._watch = watch
        self._delay_s = delay_s
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=DRAIN_S)

    async def serve(self, host: str, port: int) -> str:
        """Start, and return the URL; port 0 takes any free one."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"Can't listen on {host} port {port}; nothing was started. Choose another one with "
                "--port, or 0 for any free one."
            ) from error
        bound = self._runner.addresses[0][1]
        return f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        arrival = _arrival(request, await request.read())
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        status = self._answer(arrival)
        self._watch(arrival, status)
        return web.Response(status=status)


def _arrival(request: web.Request, body: bytes) -> Arrival:
    """Of any request; what one that is not Keylane's lacks stays empty."""
    headers = request.headers
    attempt = headers.get("keylane-attempt", "")
    return Arrival(
        user=unquote(headers.get("keylane-user", "")),
        id=unquote(headers.get("ce-id", "")),
        attempt=int(attempt) if attempt.isascii() and attempt.isdecimal() else 0,
        position=headers.get("keylane-position", ""),
        payload=body,
    )


def receive(
    host: str, port: int, *, status: int, fail_user: str | None, delay_s: float, as_json: bool
) -> int:
    """Print deliveries until Ctrl-C or SIGTERM; returns the exit code."""
    print_line = print_json if as_json else print_text

    def answer(arrival: Arrival) -> int:
        return FAILURE if fail_user is not None and arrival.user == fail_user else status

    async def serve(interrupt: Interrupt) -> int:
        receiver = Receiver(answer, print_line, delay_s=delay_s)
        url = await receiver.serve(host, port)
        sys.stderr.write(f"listening on {url}; Ctrl-C ends it\n")
        try:
            await interrupt.unless(asyncio.Event().wait())
        except Interrupted:
            return DONE
        finally:
            await receiver.close()
        return DONE

    return run(serve)


def print_json(arrival: Arrival, status: int) -> None:
    _print(json.dumps(arrival.as_dict() | {"status": status}, ensure_ascii=False))


def print_text(arrival: Arrival, status: int) -> None:
    payload = arrival.payload.decode(errors="replace")
    if len(payload) > SHOWN_CHARACTERS:
        payload = payload[:SHOWN_CHARACTERS] + "..."
    _print(
        f"{_printable(arrival.user)}  event {_printable(arrival.id)}  attempt {arrival.attempt}  "
        f"position {_printable(arrival.position)}  answered {status}  {_printable(payload)}"
    )


def _print(line: str) -> None:
    # Flushed, so that a pipe shows a delivery when it comes.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: it was written by somebody else."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _decoded(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode(errors="replace")
