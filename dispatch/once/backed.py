"""`pulsar+redis://`: Redis answers, and the topic makes up for what Redis has lost.

A Redis that has its memory answers alone. One that lost it holds another `memory`: then
everything that was finished before is read from the topic first. That is enough, because whatever
is finished is in the topic before it is in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog
from typing_extensions import override

from dispatch.once.redisstore import RedisStore
from dispatch.once.store import DeliveryStore, Doubt, Mark, Record, StoreDown
from dispatch.once.topic import TopicStore

log = structlog.get_logger()


class BackedStore(DeliveryStore):
    def __init__(self, redis: RedisStore, topic: TopicStore) -> None:
        self._redis = redis
        self._topic = topic
        self.ttl_s, self.who = topic.ttl_s, redis.who
        # Of the memory that this worker knows to lack nothing that the topic has not told.
        self._memory = b""
        self._is_redis_down = False

    @override
    async def open(self) -> None:
        # Redis first: what is lost after it answered is noticed, what was lost before is read.
        memory = b""
        try:
            _, memory = await self._redis.look([])
        except StoreDown as error:
            self._tell(error)
        await self._topic.catch_up()
        self._memory = memory

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        try:
            found, memory = await self._redis.look(names)
        except StoreDown as error:
            self._tell(error)
            return await self._topic.begin(names, doubt)
        self._tell(None)
        if all(record is not None and record.mark is not Mark.STARTED for record in found):
            return found
        if memory != self._memory:
            await self._topic.catch_up()
            self._memory = memory
        elif doubt is Doubt.REDELIVERED:
            # Its first worker may have reached the topic and not Redis.
            await self._topic.catch_up()
        return [
            backing if backing is not None and _is_open(record) else record
            for record, backing in zip(found, self._topic.known(names), strict=True)
        ]

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        await self._topic.finish(records)
        try:
            await self._redis.finish(records)
        except StoreDown as error:
            self._tell(error)

    def _tell(self, error: StoreDown | None) -> None:
        if error is not None and not self._is_redis_down:
            log.warning("once.redis_down", error=str(error), consequence="the topic answers alone")
        elif error is None and self._is_redis_down:
            log.info("once.redis_back")
        self._is_redis_down = error is not None

    @override
    async def close(self) -> None:
        await asyncio.gather(self._redis.close(), self._topic.close())


def _is_open(record: Record | None) -> bool:
    return record is None or record.mark is Mark.STARTED
