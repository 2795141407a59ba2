from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from keylane.clientlog import client_log_path
from tests.waiting import until

LINE = "2026-01-31 12:00:00.834 WARN  [139627342067392] ConsumerImpl:774 | [t, 0] Lost it"


async def test_the_client_s_lines_become_log_lines_of_their_level() -> None:
    with capture_logs() as logs:
        _write(f"{LINE}\n{LINE.replace('WARN ', 'ERROR')}\nand something else\n")
        await until(lambda: len(logs) == 3)
    facts = {"event": "client.reported", "text": "[t, 0] Lost it", "place": "ConsumerImpl:774"}
    assert logs == [
        facts | {"log_level": "warning"},
        facts | {"log_level": "error"},
        {"event": "client.reported", "text": "and something else", "log_level": "error"},
    ]


def _write(text: str) -> None:
    with Path(client_log_path()).open("w") as pipe:
        pipe.write(text)
