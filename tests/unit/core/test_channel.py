"""The channel: bounded, fair, and nothing lost that was not counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogwatch.core.channel import Channel, ChannelClosed, WhenFull
from dogwatch.core.deadline import cancel_and_wait


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_full_channel_makes_the_sender_wait_and_keeps_the_order() -> None:
    channel: Channel[int] = Channel(2)
    senders = [asyncio.create_task(channel.put(number)) for number in range(5)]
    await settle()
    assert len(channel) == 2
    assert channel.waiting_to_put == 3
    assert [await channel.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    await asyncio.gather(*senders)
    assert (channel.accepted, channel.dropped, channel.peak) == (5, 0, 2)


async def test_nobody_overtakes_a_waiting_sender() -> None:
    channel: Channel[int] = Channel(1)
    await channel.put(0)
    waiting = asyncio.create_task(channel.put(1))
    await settle()
    assert channel.take(1) == [0]
    assert not channel.offer(9)  # there is room, but it is promised
    await waiting
    assert await channel.get() == 1


async def test_drop_newest() -> None:
    channel: Channel[int] = Channel(2, when_full=WhenFull.DROP_NEWEST)
    assert [channel.offer(number) for number in range(4)] == [True, True, False, False]
    assert (channel.take(9), channel.dropped) == ([0, 1], 2)


async def test_drop_oldest_never_waits() -> None:
    channel: Channel[int] = Channel(2, when_full=WhenFull.DROP_OLDEST)
    for number in range(4):
        await channel.put(number)
    assert (channel.take(9), channel.dropped) == ([2, 3], 2)


async def test_room_for_several_calls_several() -> None:
    """Found by the property test below: taking two called one, and the other slept on beside a free place."""
    channel: Channel[int] = Channel(2)
    senders = [asyncio.create_task(channel.put(number)) for number in range(4)]
    await settle()
    assert channel.take(2) == [0, 1]
    await asyncio.wait_for(asyncio.gather(*senders), 60)
    assert channel.take(2) == [2, 3]


async def test_a_newcomer_does_not_pass_one_who_was_called_and_is_on_his_way() -> None:
    channel: Channel[int] = Channel(2)
    first = [asyncio.create_task(channel.put(number)) for number in range(3)]
    await settle()
    assert channel.take(2) == [0, 1]  # room for two, one of them called
    await asyncio.gather(channel.put(3), *first)
    assert channel.take(2) == [2, 3]


async def test_a_cancelled_put_has_not_put_and_passes_its_turn_on() -> None:
    channel: Channel[int] = Channel(1)
    await channel.put(0)
    first, second = (asyncio.create_task(channel.put(number)) for number in (1, 2))
    await settle()
    assert channel.take(1) == [0]  # calls the first…
    first.cancel()  # …which is cancelled before it comes
    await asyncio.wait([first])
    await asyncio.wait_for(second, 60)
    assert channel.take(9) == [2]


async def test_a_cancelled_get_takes_nothing_and_passes_its_turn_on() -> None:
    channel: Channel[int] = Channel(1)
    first, second = (asyncio.create_task(channel.get()) for _ in range(2))
    await settle()
    assert channel.offer(7)
    first.cancel()
    assert await asyncio.wait_for(second, 60) == 7
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_whoever_joined_behind_one_who_gives_up_is_called() -> None:
    channel: Channel[int] = Channel(1)
    gives_up = asyncio.create_task(channel.get())
    await settle()
    gives_up.cancel()  # he stands in the line until his task runs…
    assert channel.offer(1)
    joined = asyncio.create_task(channel.get())
    assert await asyncio.wait_for(joined, 60) == 1


async def test_waiting_and_giving_up_leaves_no_trace() -> None:
    channel: Channel[int] = Channel(1)
    for _ in range(100):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await channel.get()
    assert len(channel._getters) == 0
    assert channel._getters.called == 0


async def test_close_lets_what_is_there_out_and_wakes_everybody() -> None:
    channel: Channel[int] = Channel(2)
    await channel.put(1)
    await channel.put(2)
    late = asyncio.create_task(channel.put(3))
    await settle()
    channel.close()
    with pytest.raises(ChannelClosed):
        await late
    with pytest.raises(ChannelClosed):
        channel.offer(4)
    assert [item async for item in channel] == [1, 2]
    empty: Channel[int] = Channel(1)
    waiting = asyncio.create_task(empty.get())
    await settle()
    empty.close()
    with pytest.raises(ChannelClosed):
        await waiting


def test_capacity_is_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Channel(0)


actions = st.lists(st.sampled_from(["put", "get", "offer", "take", "cancel", "step"]), max_size=60)


@settings(max_examples=300)
@given(capacity=st.integers(1, 4), policy=st.sampled_from(WhenFull), actions=actions, picks=st.randoms())
async def test_nothing_is_lost_uncounted_doubled_or_reordered(capacity, policy, actions, picks) -> None:
    """Any mix of senders, receivers and cancellations: what got in and was not dropped comes out, in order, once."""
    channel: Channel[int] = Channel(capacity, when_full=policy)
    tasks: list[asyncio.Task[None]] = []
    got: list[int] = []
    number = 0

    async def send() -> None:
        nonlocal number
        number += 1
        await channel.put(number)

    async def receive() -> None:
        got.append(await channel.get())

    for action in actions:
        if action == "put":
            tasks.append(asyncio.create_task(send()))
        elif action == "offer":
            number += 1
            channel.offer(number)
        elif action == "get":
            tasks.append(asyncio.create_task(receive()))
        elif action == "take":
            got.extend(channel.take(picks.randint(1, 3)))
        elif action == "cancel" and tasks:
            picks.choice(tasks).cancel()
        else:
            await asyncio.sleep(0)
        assert len(channel) <= capacity
    for _ in range(150):  # every one of them may have to go through one place, in two steps
        await asyncio.sleep(0)
    alive = [task for task in tasks if not task.done()]
    # Nobody waits who could go on.
    assert not (len(channel) and len(channel._getters))
    assert not (len(channel) < capacity and len(channel._putters))
    await cancel_and_wait(alive)
    got.extend(channel.take(capacity))
    lost_here = channel.dropped if policy is WhenFull.DROP_OLDEST else 0
    assert len(got) == channel.accepted - lost_here
    assert got == sorted(set(got))


@settings(max_examples=100, deadline=None)
@given(capacity=st.integers(1, 5), items=st.lists(st.integers(), max_size=30), policy=st.sampled_from(WhenFull))
async def test_the_drop_policies_against_a_model(capacity: int, items: list[int], policy: WhenFull) -> None:
    channel: Channel[int] = Channel(capacity, when_full=policy)
    model: deque[int] = deque()
    dropped = 0
    for item in items:
        if len(model) == capacity:
            dropped += policy is not WhenFull.BLOCK
            if policy is WhenFull.DROP_OLDEST:
                model.popleft()
                model.append(item)
        else:
            model.append(item)
        channel.offer(item)
    assert (channel.take(capacity), channel.dropped) == (list(model), dropped)
