"""Generated requests, made from the service's own description of itself."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.fakes import FakePublisher
from tests.ingestclient import served

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = Path(sys.executable).with_name("st")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


async def generated(folder: Path, examples: int) -> tuple[int, int, str]:
    """The exit code of schemathesis, how many requests it made, and what it said."""
    async with served(FakePublisher(), max_in_flight=1_000) as client:
        process = await asyncio.create_subprocess_exec(
            *(
                str(SCHEMATHESIS),
                "run",
                f"{client._base_url}".rstrip("/") + "/openapi.json",
                "--no-color",
            ),
            *("--checks", CHECKS, "--max-examples", str(examples), "--seed", "1"),
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
                "PYTHONPATH": str(ROOT),
            },
            # It leaves a folder where it runs.
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    cases = re.search(r"(\d+) generated", said)
    assert process.returncode is not None
    return process.returncode, int(cases[1]) if cases else 0, said


@pytest.mark.timeout(180)
async def test_generated_requests_find_no_fault_and_no_undocumented_answer(
    tmp_path: Path,
) -> None:
    code, cases, said = await generated(tmp_path, 30)

    assert code == 0, said
    assert cases > 100


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_ten_thousand_generated_requests_find_none_either(tmp_path: Path) -> None:
    code, cases, said = await generated(tmp_path, 5_500)

    assert code == 0, said
    assert cases >= 10_000
