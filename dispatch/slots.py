"""Which of a host's workers this process is.

A worker's name decides which keys it gets, so it must be the same after a restart and different
from that of every other worker of its destination. Host and destination don't tell two processes
apart; the lowest free slot does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import tempfile
from itertools import count
from pathlib import Path
from typing import Self

from keylane.names import full_topic


class Slot:
    """The lowest number that no other live worker of this destination holds on this host."""

    def __init__(self, topic: str, destination: str, service_url: str) -> None:
        folder = Path(tempfile.gettempdir()) / f"keylane-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        subscription = f"{service_url} {full_topic(topic)} {destination}"
        digest = hashlib.sha256(subscription.encode()).hexdigest()[:16]
        for number in count():
            # The lock goes with its process, however that ends; the empty file stays.
            file = os.open(folder / f"worker-{digest}-{number}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
            else:
                self.number = number
                self._file = file
                break
        self.consumer_name = f"{socket.gethostname()}-{destination}-{self.number}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
