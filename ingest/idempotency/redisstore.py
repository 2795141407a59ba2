"""What all processes remember together, in Redis.

One script compares and writes all names of a request in one step. Names come as hashes, so keys
and ids of any length or characters fit and none of them can be read in Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from ingest.idempotency.store import Store, StoreDown, Write
from keylane.redispool import open_pool

PREFIX: Final = "keylane:"
#: Seconds for a connection, and for an answer.
TIMEOUT_S: Final = 2.0
#: Connections of one process; a request holds one for a single round trip.
_CONNECTIONS: Final = 32

# KEYS: the names. ARGV: milliseconds of a lease, of a record; then of each name what it is expected
# to hold (empty: nothing), what to do, and the value. MGET goes in parts, for Lua's stack is small.
_EXCHANGE: Final = """
local count, current, same = #KEYS, {}, true
for first = 1, count, 1000 do
  local last = math.min(first + 999, count)
  for offset, value in ipairs(redis.call('MGET', unpack(KEYS, first, last))) do
    local index = first + offset - 1
    current[index] = value
    if (value or '') ~= ARGV[3 * index] then same = false end
  end
end
if not same then return current end
for index = 1, count do
  local act, value = ARGV[3 * index + 1], ARGV[3 * index + 2]
  if act == 'lease' then redis.call('SET', KEYS[index], value, 'PX', ARGV[1])
  elseif act == 'record' then redis.call('SET', KEYS[index], value, 'PX', ARGV[2])
  elseif act == 'remove' then redis.call('DEL', KEYS[index]) end
end
return 1
"""


class RedisStore(Store):
    def __init__(self, url: str, *, window_s: float, reservation_s: float) -> None:
        """Raises `ConfigurationError` for a URL that can't be read."""
        # What was done already before a connection was lost is recognized (`change` in store.py).
        self._pool = open_pool(url, connections=_CONNECTIONS, timeout_s=TIMEOUT_S)
        self._redis = Redis(connection_pool=self._pool)
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._lives_ms = (_milliseconds(reservation_s), _milliseconds(window_s))

    @override
    async def exchange(
        self,
        names: Sequence[bytes],
        expected: Sequence[bytes | None],
        writes: Sequence[Write | None],
    ) -> list[bytes | None] | None:
        arguments: list[Any] = list(self._lives_ms)
        for value, write in zip(expected, writes, strict=True):
            arguments += (value or b"", *_told(write))
        try:
            answer = await self._exchange([PREFIX + name.hex() for name in names], arguments)
        except (RedisError, OSError) as error:
            raise StoreDown(f"Redis: {error}") from error
        return None if answer == 1 else list(answer)

    @override
    async def close(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()


def _told(write: Write | None) -> tuple[str, bytes]:
    if write is None:
        return "keep", b""
    if write.value is None:
        return "remove", b""
    return ("lease" if write.is_lease else "record"), write.value


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
