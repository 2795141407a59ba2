"""What any broker behind the port does: publishing, receiving, acknowledging, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from keylane.broker import Broker, OutgoingMessage, Received
from keylane.errors import BrokerUnavailable, EventTooLarge
from keylane.routing import partition_of
from tests.contract.scene import Scene, Worker
from tests.messages import positions
from tests.waiting import until

KEYS = ["Ada", "Émile", "漢字", "🦀", *(f"user-{n}" for n in range(20))]


async def test_a_key_lands_on_the_partition_that_routing_names(
    make_scene: Callable[[int], Awaitable[Scene]],
) -> None:
    scene = await make_scene(3)
    workers = [await scene.worker(partition=partition) for partition in range(3)]
    for key in KEYS:
        await scene.publish(key, "event")

    await until(lambda: sum(len(w.received) for w in workers) == len(KEYS))

    for partition, worker in enumerate(workers):
        assert worker.keys() == {key for key in KEYS if partition_of(key, 3) == partition}


async def test_the_number_of_partitions_is_known_and_0_for_a_plain_topic(
    make_scene: Callable[[int], Awaitable[Scene]],
) -> None:
    partitioned, plain = await make_scene(3), await make_scene(0)

    assert await partitioned.broker.partitions(partitioned.topic) == 3
    assert await plain.broker.partitions(plain.topic) == 0
    assert await plain.broker.partitions(f"{plain.topic}-nobody-made") == 0


async def test_receipts_of_a_key_grow_and_are_the_positions_received(scene: Scene) -> None:
    worker = await scene.worker()

    receipts = await scene.publish("Ada", *"abcde")

    assert receipts == sorted(set(receipts))
    assert [index for _, _, index in receipts] == [-1] * 5
    await worker.gets(*"abcde")
    assert [m.position for m in worker.received] == receipts


async def test_value_properties_and_times_come_back_as_they_were_sent(scene: Scene) -> None:
    worker = await scene.worker()
    value = bytes(range(256)) + '{"b": 1.0, "a": "é"}'.encode()
    properties = {
        "ce_id": "1",
        "content-type": "application/json",
        "Größe": "漢字 = \n",
        "empty": "",
    }

    await scene.send(OutgoingMessage("Ada", value, properties, 1_234_567_890_123))
    await until(lambda: bool(worker.received))

    (message,) = worker.received
    assert message.key == "Ada"
    assert message.value() == value
    assert message.properties() == properties
    assert message.event_time_ms == 1_234_567_890_123
    assert message.publish_time_ms > 1_700_000_000_000
    assert message.redelivery_count == 0


async def test_an_empty_value_and_no_event_time_come_back_too(scene: Scene) -> None:
    worker = await scene.worker()

    await scene.send(OutgoingMessage("Ada", b""))
    await until(lambda: bool(worker.received))

    (message,) = worker.received
    assert message.value() == b""
    assert message.properties() == {}
    assert message.event_time_ms == 0


async def test_messages_without_a_key_are_delivered(scene: Scene) -> None:
    worker = await scene.worker()

    await scene.publish("", "one", "two")

    await until(lambda: len(worker.received) == 2)
    assert {m.key for m in worker.received} == {""}
    assert set(worker.values()) == {"one", "two"}


async def test_a_subscription_starts_from_the_earliest_event(scene: Scene) -> None:
    # Stock Pulsar keeps nothing on a topic without any subscription.
    await scene.cluster.create_subscription(scene.topic, "keeper")
    await scene.publish("Ada", *"abc")

    worker = await scene.worker(subscription="new")

    await worker.gets(*"abc")


async def test_two_subscriptions_each_get_everything(scene: Scene) -> None:
    crm = await scene.worker(subscription="crm")
    mail = await scene.worker(subscription="mail")

    await scene.publish("Ada", *"abc")
    await crm.gets(*"abc")
    crm.consumer.acknowledge(crm.received)

    await mail.gets(*"abc")
    await scene.backlog_is(0, "crm")
    assert await scene.backlog("mail") == 3


async def test_a_topic_that_is_not_partitioned_can_be_published_to(
    make_scene: Callable[[int], Awaitable[Scene]],
) -> None:
    scene = await make_scene(0)

    receipts = await scene.publish("Ada", *"abc")

    assert receipts == sorted(set(receipts))


async def test_too_large_a_message_is_refused_and_the_next_one_stored(scene: Scene) -> None:
    worker = await scene.worker()

    receipt = await scene.send(OutgoingMessage("Ada", bytes(6 * 1024 * 1024)))

    assert isinstance(receipt, EventTooLarge)
    await scene.publish("Ada", "next")
    await worker.gets("next")


async def test_an_acknowledged_message_is_not_sent_to_the_next_consumer(scene: Scene) -> None:
    first = await scene.worker()
    await scene.publish("Ada", *"abc")
    await first.gets(*"abc")

    first.consumer.acknowledge([m for m in first.received if m.value() != b"b"])
    await scene.backlog_is(1)
    await first.consumer.close()

    second = await scene.worker()
    await scene.publish("Ada", "marker")
    await second.gets("b", "marker")


async def test_acknowledging_again_is_harmless(scene: Scene) -> None:
    worker = await scene.worker()
    await scene.publish("Ada", *"ab")
    await worker.gets(*"ab")

    worker.consumer.acknowledge(worker.received[:1])
    worker.consumer.acknowledge([worker.received[0], worker.received[0]])
    await scene.backlog_is(1)
    worker.consumer.negative_acknowledge(positions(worker.received[:1]))
    worker.consumer.acknowledge(worker.received)

    await scene.backlog_is(0)
    await scene.publish("Ada", "marker")
    await worker.gets("a", "b", "marker")


async def test_a_closed_consumers_messages_go_to_another_in_order_and_uncounted(
    scene: Scene,
) -> None:
    first = await scene.worker()
    await scene.publish("Ada", *"abc")
    await scene.publish("Bob", *"xyz")
    await until(lambda: len(first.received) == 6)
    second = await scene.worker()

    await first.consumer.close()

    await until(lambda: len(second.received) == 6)
    assert second.values("Ada") == list("abc")
    assert second.values("Bob") == list("xyz")
    assert {m.redelivery_count for m in second.received} == {0}


async def test_a_paused_consumer_is_handed_nothing_until_it_resumes(scene: Scene) -> None:
    paused = await scene.worker()
    other = await scene.worker(subscription="other")
    paused.consumer.pause()
    await scene.publish("Ada", *"abc")
    await other.gets(*"abc")
    paused.consumer.pause()
    assert paused.received == []

    paused.consumer.resume()
    paused.consumer.resume()

    await paused.gets(*"abc")


async def test_what_a_paused_consumer_has_fetched_goes_to_another_when_it_closes(
    scene: Scene,
) -> None:
    paused = await scene.worker()
    paused.consumer.pause()
    await scene.publish("Ada", *"abc")
    await paused.consumer.close()

    other = await scene.worker()

    await other.gets(*"abc")
    assert paused.received == []


async def test_deliver_is_never_called_from_within_a_call(scene: Scene) -> None:
    publisher = await scene.broker.publisher(scene.topic)
    is_inside = False

    def call_everything(worker: Worker, batch: Sequence[Received]) -> None:
        nonlocal is_inside
        assert not is_inside
        is_inside = True
        worker.consumer.pause()
        if len(worker.received) < 3:
            publisher.send(OutgoingMessage("Ada", b"more"), lambda _: None)
        worker.consumer.acknowledge(batch)
        worker.consumer.resume()
        is_inside = False

    worker = await scene.worker(react=call_everything)
    await scene.publish("Ada", "one")

    await worker.gets("one", "more", "more")
    await scene.backlog_is(0)


async def test_closing_a_consumer_twice_is_harmless(scene: Scene) -> None:
    worker = await scene.worker()
    assert worker.consumer.is_connected()

    await worker.consumer.close()
    await worker.consumer.close()

    assert not worker.consumer.is_connected()


async def test_a_publisher_may_have_a_name_and_deduplicate(scene: Scene) -> None:
    worker = await scene.worker()
    publisher = await scene.broker.publisher(scene.topic, name="ingest-0", deduplicate=True)
    receipts: list[object] = []

    for value in (b"a", b"b", b"b"):
        publisher.send(OutgoingMessage("Ada", value), receipts.append)

    await worker.gets("a", "b", "b")
    await until(lambda: len(receipts) == 3)


async def test_a_closed_publisher_says_that_nothing_was_sent(scene: Scene) -> None:
    publisher = await scene.broker.publisher(scene.topic)
    assert publisher.is_connected()
    receipts: list[object] = []

    await publisher.close()
    await publisher.close()
    publisher.send(OutgoingMessage("Ada", b"late"), receipts.append)

    await until(lambda: bool(receipts))
    assert isinstance(receipts[0], BrokerUnavailable)
    assert not publisher.is_connected()


async def test_closing_the_broker_closes_everything(scene: Scene, other_broker: Broker) -> None:
    worker = await scene.worker(broker=other_broker)
    publisher = await other_broker.publisher(scene.topic)
    await scene.publish("Ada", *"ab")
    await worker.gets(*"ab")

    await other_broker.close()
    await other_broker.close()

    assert not worker.consumer.is_connected()
    assert not publisher.is_connected()
    successor = await scene.worker()
    await successor.gets(*"ab")


@pytest.mark.parametrize("partition", [0, 7])
async def test_a_partition_that_does_not_exist_has_nothing(
    make_scene: Callable[[int], Awaitable[Scene]], partition: int
) -> None:
    scene = await make_scene(0)
    worker = await scene.worker(partition=partition)

    await scene.publish("Ada", "event")

    assert worker.consumer.is_connected()
    assert worker.received == []


async def test_the_broker_confirms_a_consumer_that_it_has(scene: Scene) -> None:
    worker = await scene.worker()

    await worker.consumer.confirm()
    await scene.publish("Ada", "a")
    await worker.gets("a")
    await asyncio.gather(*(worker.consumer.confirm() for _ in range(20)))


async def test_a_closed_consumer_is_not_confirmed(scene: Scene) -> None:
    worker = await scene.worker()
    await worker.consumer.close()

    with pytest.raises(BrokerUnavailable):
        await worker.consumer.confirm()


async def test_a_message_is_given_back_by_its_position_alone(scene: Scene) -> None:
    worker = await scene.worker()
    (position, _) = await scene.publish("Ada", "a", "b")
    await worker.gets("a", "b")
    worker.consumer.acknowledge(worker.received[1:])
    worker.received.clear()

    worker.consumer.negative_acknowledge([position])

    await worker.gets("a")
    assert worker.received[0].redelivery_count == 1
    worker.consumer.acknowledge(worker.received)
    await scene.backlog_is(0)


async def test_a_channel_tells_everybody_who_listens(scene: Scene, other_broker: Broker) -> None:
    heard: list[tuple[str, bytes]] = []
    one = await scene.broker.channel(scene.topic, lambda what: heard.append(("one", what)))
    await other_broker.channel(scene.topic, lambda what: heard.append(("other", what)))

    one.say(b"first")
    one.say(b"second")

    await until(lambda: len(heard) >= 4)
    assert sorted(heard) == [
        (who, what) for who in ("one", "other") for what in (b"first", b"second")
    ]


async def test_what_was_said_before_is_heard_by_nobody(scene: Scene, other_broker: Broker) -> None:
    heard: list[bytes] = []
    channel = await scene.broker.channel(scene.topic, lambda what: None)
    channel.say(b"before")
    await asyncio.sleep(0.1)

    await other_broker.channel(scene.topic, heard.append)
    channel.say(b"after")

    await until(lambda: b"after" in heard)
    assert heard == [b"after"]


async def test_a_closed_brokers_channel_says_nothing_and_raises_nothing(scene: Scene) -> None:
    channel = await scene.broker.channel(scene.topic, lambda what: None)
    await scene.broker.close()

    channel.say(b"too late")
