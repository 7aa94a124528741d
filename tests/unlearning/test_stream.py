"""The stream of steps: every learning example once per epoch, unlearning exactly where planned."""

from types import SimpleNamespace

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from letgo.unlearning.losses import LOSSES
from letgo.unlearning.schedule import SCHEDULES, Plan, unlearning_steps
from letgo.unlearning.stream import StepStream


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [
        (7, 3, [0, 0, 0, 1, 0, 0, 0, 1, 0]),
        (4, 1, [0, 1, 0, 1, 0, 1, 0, 1]),
        (3, 5, [0, 0, 0]),
        (3, 0, [0, 0, 0]),
        (6, 3, [0, 0, 0, 1, 0, 0, 0, 1]),
    ],
)
def test_one_unlearning_step_after_every_interval(steps, interval, expected):
    assert unlearning_steps("periodic", steps, interval, 0) == [bool(kind) for kind in expected]


def processes(accumulation, world, rank, mixed=False):
    """The settings of one of the processes; with a loss that mixes in learning examples, or not."""
    return SimpleNamespace(
        gradient_accumulation_steps=accumulation,
        world_size=world,
        process_index=rank,
        seed=1,
        unlearning_loss=next(name for name, loss in LOSSES.items() if loss.mixes_learning is mixed),
    )


def streams(examples, forget, batch, accumulation, world, interval, epochs):
    """The micro-batches of every process, and the kinds of the steps."""
    per_step = batch * accumulation * world
    steps = epochs * -(-examples // per_step)
    kinds = unlearning_steps("periodic", steps, interval, 0)
    made = []
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=False)
        stream = StepStream(
            Plan(kinds), learning, examples, forget, batch, processes(accumulation, world, rank)
        )
        made.append(list(stream))
        assert len(made[-1]) == len(stream) == len(kinds) * accumulation
    return kinds, made


@pytest.mark.parametrize("examples", [1, 7, 16, 29])
@pytest.mark.parametrize("forget", [1, 5, 40])
@pytest.mark.parametrize(("batch", "accumulation", "world"), [(4, 1, 1), (2, 2, 1), (3, 2, 2)])
def test_every_example_is_seen_as_planned(examples, forget, batch, accumulation, world):
    epochs = 3
    kinds, made = streams(examples, forget, batch, accumulation, world, 2, epochs)
    nothing = examples + forget
    learned, unlearned = [], []
    for step, unlearning in enumerate(kinds):
        places = slice(step * accumulation, (step + 1) * accumulation)
        seen = [i for stream in made for micro in stream[places] for i in micro if i != nothing]
        assert all((i >= examples) is unlearning for i in seen)
        assert len(seen) == len(set(seen))  # nothing twice in a step
        (unlearned if unlearning else learned).append(seen)
    everything = [i for step in learned for i in step]
    assert sorted(everything) == sorted(list(range(examples)) * epochs)
    for step in unlearned:
        assert len(step) == min(forget, batch * accumulation * world)
    counts = [sum(i in step for step in unlearned) for i in range(examples, nothing)]
    assert max(counts) - min(counts) <= 1 + (forget < batch * accumulation * world)


def test_steps_hold_the_same_examples_however_they_are_split():
    whole = streams(29, 11, 4, 1, 1, 2, 2)
    for batch, accumulation, world in [(1, 4, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2), (1, 1, 4)]:
        kinds, made = streams(29, 11, batch, accumulation, world, 2, 2)
        assert kinds == whole[0]
        for step in range(len(kinds)):
            places = slice(step * accumulation, (step + 1) * accumulation)
            seen = {i for stream in made for micro in stream[places] for i in micro} - {40}
            assert seen == set(whole[1][0][step])


def test_the_forget_stream_depends_on_the_seed_only():
    first, again = streams(8, 20, 4, 1, 1, 1, 4)[1], streams(8, 20, 4, 1, 1, 1, 4)[1]
    assert first == again


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 40),
    forget=st.integers(1, 15),
    batch=st.integers(1, 3),
    interval=st.integers(1, 5),
)
def test_processes_share_out_what_one_would_accumulate(examples, forget, batch, interval):
    """1 process x 4 micro-batches = 2 x 2 = 4 x 1, in steps of both kinds, place for place."""
    found = []
    for world in (1, 2, 4):
        accumulation = 4 // world
        kinds, made = streams(examples, forget, batch, accumulation, world, interval, 2)
        steps = [
            [
                made[rank][step * accumulation + i]
                for i in range(accumulation)
                for rank in range(world)
            ]
            for step in range(len(kinds))
        ]
        found.append((kinds, steps))
    assert found[0] == found[1] == found[2]


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 40),
    batch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 3),
)
def test_dropped_batches_are_those_that_the_trainer_drops(examples, batch, accumulation, world):
    """With drop_last every process has the micro-batches that accelerate would give it."""
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=True)
        theirs = list(BatchSamplerShard(learning, world, rank))
        steps = -(-len(theirs) // accumulation)
        stream = StepStream(
            Plan([False] * (2 * steps)),
            learning,
            examples,
            3,
            batch,
            processes(accumulation, world, rank),
        )
        assert [b for b in stream if b != [examples + 3]] == theirs * 2


@settings(max_examples=150, deadline=None)
@given(
    examples=st.integers(1, 40),
    forget=st.integers(1, 15),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 3),
    interval=st.integers(0, 7),
    epochs=st.integers(1, 3),
    schedule=st.sampled_from(SCHEDULES),
    mixed=st.booleans(),
)
def test_any_stream_is_whole(
    examples, forget, batch, accumulation, world, interval, epochs, schedule, mixed
):
    """Every learning example once per epoch, unlearning as often as planned, steps of one kind."""
    steps = epochs * -(-examples // (batch * accumulation * world))
    kinds = unlearning_steps(schedule, steps, interval, 7)
    assert kinds.count(False) == steps
    assert kinds.count(True) == (steps // interval if interval else 0)
    nothing = examples + forget
    made = []
    for rank in range(world):
        learning = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=False)
        stream = StepStream(
            Plan(kinds),
            learning,
            examples,
            forget,
            batch,
            processes(accumulation, world, rank, mixed),
        )
        made.append(list(stream))
        assert len(made[-1]) == len(stream) == len(kinds) * accumulation
    learned = []
    for step, unlearning in enumerate(kinds):
        micro = [b for m in made for b in m[step * accumulation : (step + 1) * accumulation]]
        seen = [i for b in micro for i in b if i != nothing]
        if unlearning:
            own = [i for i in seen if i >= examples]
            assert len(own) == len(set(own)) == stream.texts_per_step
            assert len(seen) == len(own) * (2 if mixed else 1)
        else:
            assert max(seen) < examples
            learned += seen
    assert sorted(learned) == sorted(list(range(examples)) * epochs)
