"""`redis://`, `rediss://`: what all workers remember together.

Look-ups of one turn of the loop are one script, and so are records: a command for each name would
cost several times the CPU. A lost connection is opened anew, and what was asked on it is asked once
more: to do any of it twice changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from dispatch.once.batches import Batches
from dispatch.once.store import (
    DeliveryStore,
    Doubt,
    Mark,
    Record,
    StoreDown,
    decode,
    encode,
    this_process,
    unix_ms,
)
from keylane.redispool import open_pool

PREFIX: Final = "keylane:once:"
#: Holds which memory this is: who finds another one knows that everything was lost.
MEMORY_KEY: Final = f"{PREFIX}memory"
#: Seconds for a connection, and for an answer.
TIMEOUT_S: Final = 0.5
#: Seconds that an attempt counts as under way.
STARTED_S: Final = 120.0
_CONNECTIONS: Final = 8

# KEYS: that of the memory, then the names. ARGV: another memory's id, what to note where nothing
# is, and for how many milliseconds. MGET goes in parts, for Lua's stack is small.
_BEGIN: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local held = {redis.call('GET', KEYS[1])}
for first = 2, #KEYS, 1000 do
  local last = math.min(first + 999, #KEYS)
  for offset, value in ipairs(redis.call('MGET', unpack(KEYS, first, last))) do
    local index = first + offset - 1
    held[index] = value
    if not value then redis.call('SET', KEYS[index], ARGV[2], 'PX', ARGV[3]) end
  end
end
return held
"""
# KEYS: the names. ARGV: how long in milliseconds, how one's own note begins, then a record for each
# name, or nothing. Only one's own note is taken back: somebody else may have delivered meanwhile.
_FINISH: Final = """
for index, key in ipairs(KEYS) do
  local record = ARGV[2 + index]
  if record ~= '' then
    redis.call('SET', key, record, 'PX', ARGV[1])
  else
    local held = redis.call('GET', key)
    if held and string.find(held, ARGV[2], 1, true) == 1 then redis.call('DEL', key) end
  end
end
return 1
"""


class RedisStore(DeliveryStore):
    def __init__(self, url: str, *, ttl_s: float) -> None:
        """Raises `ConfigurationError` for a URL that can't be read."""
        self._pool = open_pool(url, connections=_CONNECTIONS, timeout_s=TIMEOUT_S)
        self._redis = Redis(connection_pool=self._pool)
        self._begin = self._redis.register_script(_BEGIN)
        self._finish = self._redis.register_script(_FINISH)
        self.ttl_s = ttl_s
        self.who = this_process()
        self._prefix = encode(Record(Mark.STARTED, self.who, 0)).rpartition(b",0,")[0]
        self._beginnings = Batches(self._begin_all)
        self._ends = Batches(self._finish_all)

    @override
    async def open(self) -> None:
        await self.begin([], Doubt.NONE)

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        return (await self.look(names))[0]

    async def look(self, names: Sequence[bytes]) -> tuple[list[Record | None], bytes]:
        """What `begin` tells, and which memory it was found in; raises `StoreDown`."""
        return await self._beginnings.ask(names)

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        await self._ends.ask(records)

    async def _begin_all(
        self, questions: Sequence[Sequence[bytes]]
    ) -> list[tuple[list[Record | None], bytes]]:
        keys = [MEMORY_KEY, *(_key(name) for names in questions for name in names)]
        started = encode(Record(Mark.STARTED, self.who, unix_ms()))
        arguments: list[Any] = [os.urandom(8).hex(), started, _milliseconds(STARTED_S)]
        memory, *values = await _answer(self._begin(keys, arguments))
        found = iter(values)
        return [([_record(next(found)) for _ in names], memory) for names in questions]

    async def _finish_all(self, questions: Sequence[Mapping[bytes, Record | None]]) -> list[None]:
        keys: list[str] = []
        arguments: list[Any] = [_milliseconds(self.ttl_s), self._prefix]
        for records in questions:
            for name, record in records.items():
                keys.append(_key(name))
                arguments.append(b"" if record is None else encode(record))
        await _answer(self._finish(keys, arguments))
        return [None] * len(questions)

    @override
    async def close(self) -> None:
        await self._beginnings.close()
        await self._ends.close()
        await self._redis.aclose()
        await self._pool.disconnect()


async def _answer(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (RedisError, OSError) as error:
        raise StoreDown(f"Redis: {error}") from error


def _record(value: bytes | None) -> Record | None:
    return None if value is None else decode(value)


def _key(name: bytes) -> str:
    return PREFIX + name.hex()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
