"""Choosing ports for a local broker."""

from __future__ import annotations

import random
import socket
from typing import Final

from keylane.errors import ConfigurationError

HOST: Final = "127.0.0.1"

# Below the range that Linux (32768+) and macOS (49152+) take outgoing connections from: a client
# that keeps connecting while its broker is down would else one day occupy the broker's port.
FREE_PORTS: Final = range(20_000, 30_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # As Java does it: connections that linger after a stop do not count as "in use".
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port(wanted: int, option: str, *, taken: frozenset[int] = frozenset()) -> int:
    """The wanted port, or any free one for 0; refuses one that something else listens on."""
    if wanted:
        if wanted in taken or not is_free(wanted):
            raise ConfigurationError(
                f"Port {wanted} is in use: stop what listens there, or choose another one with"
                f" {option}."
            )
        return wanted
    rng = random.SystemRandom()  # two brokers that start together must not draw the same ports
    for port in rng.sample(FREE_PORTS, k=200):
        if port not in taken and is_free(port):
            return port
    raise ConfigurationError(f"No port is free; choose one with {option}.")
