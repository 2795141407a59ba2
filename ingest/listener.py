"""The socket that a server listens on, alone or as one of several processes on one port."""

from __future__ import annotations

import ipaddress
import resource
import socket
from typing import Final

from keylane.errors import ConfigurationError
from keylane.ingestsettings import IngestSettings

#: Connections that wait to be accepted.
BACKLOG: Final = 2048


def listen(options: IngestSettings) -> socket.socket:
    """Listen; raises `ConfigurationError` if that is not possible.

    Each of several processes has a socket of its own on the port and the kernel shares the
    connections out: from one common socket a busy process takes more than its part.
    """
    return _bound(options, shared=options.workers > 1, listening=True)


def reserve(options: IngestSettings) -> socket.socket:
    """Take the port for processes that are still to come, without taking connections."""
    return _bound(options, shared=True, listening=False)


def _bound(options: IngestSettings, *, shared: bool, listening: bool) -> socket.socket:
    host, port = options.host, options.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            if listening:
                listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigurationError(
            f"Can't listen on {host} port {port}: {reason}. Choose another with --host and --port, "
            "or KEYLANE_INGEST__HOST and KEYLANE_INGEST__PORT; port 0 is any free one."
        ) from error
    return listener


def url_of(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_exposure(options: IngestSettings) -> None:
    """Raise `ConfigurationError` if other machines could send without a key and nobody said so."""
    if options.keys_file or options.insecure or _is_loopback(options.host):
        return
    raise ConfigurationError(
        f"{options.host} can be reached from other machines, and no API keys are set up: anybody "
        "could send events. Nothing was started. Make keys with `keylane keys create NAME` and "
        "name their file with --keys-file or KEYLANE_INGEST__KEYS_FILE; or say --insecure where "
        "something else guards this port."
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one; 1,024 are few for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS has a hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_240), hard))
