"""The yardstick of a request's cost: what anybody would write who needs no broker at all.

FastAPI validates the events by a model, the handler counts them and the answer goes out. Nothing is
stored, traced, measured or logged.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.parts import child


class PlainEvent(BaseModel):
    UserID: str
    Payload: Any
    ID: str | None = None


class Options(msgspec.Struct):
    host: str
    #: Handle requests on the event loop, which only fits what never waits; else in a thread.
    on_loop: bool = False


class Listening(msgspec.Struct):
    port: int


def post(events: list[PlainEvent]) -> dict[str, int]:
    return {"accepted": len(events)}


async def post_on_loop(events: list[PlainEvent]) -> dict[str, int]:
    return {"accepted": len(events)}


def _serve(options: Options) -> None:
    app = FastAPI()
    app.post("/events", status_code=202)(post_on_loop if options.on_loop else post)
    with socket.create_server((options.host, 0), backlog=2048) as listener:
        # Who connects before it serves waits in the backlog.
        child.tell(Listening(listener.getsockname()[1]))
        config = uvicorn.Config(
            app, loop="uvloop", http="httptools", access_log=False, log_level="warning"
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _serve(child.begin(Options))
