from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from reelscan.pretrain.sample_order import BatchOrder, CorpusOrder, Draw, KindOrder

SIZES = (7, 5, 9, 3, 6)
COUNT = sum(SIZES)
GLOBAL_BATCH = 4


def corpus(
    name: str = "corpus",
    sizes: Sequence[int] = SIZES,
    *,
    weight: float = 1.0,
    seed: int = 0,
    shuffle_shards: int = 2,
    run_length: int = 1,
) -> CorpusOrder:
    return CorpusOrder(
        name,
        follows=[np.arange(size) % run_length != 0 for size in sizes],
        weight=weight,
        seed=seed,
        shuffle_shards=shuffle_shards,
    )


def batches(
    kinds: Sequence[Sequence[CorpusOrder]], numbers: range, *, seed: int = 0
) -> list[list[Draw]]:
    order = BatchOrder(
        [KindOrder(corpora, seed=seed, kind=kind) for kind, corpora in enumerate(kinds)],
        global_batch=GLOBAL_BATCH,
        seed=seed,
    )
    return [order.draws(number, places=range(GLOBAL_BATCH)) for number in numbers]


def one_pass(order: CorpusOrder, number: int = 0) -> list[int]:
    places = range(number * order.size, (number + 1) * order.size)
    return [order.draw(place, kind=0, corpus=0).sample for place in places]


def test_each_pass_has_every_sample_once_in_another_order():
    passes = [one_pass(corpus(), number) for number in range(3)]
    assert all(sorted(order) == list(range(COUNT)) for order in passes)
    assert len(set(map(tuple, passes))) == 3
    assert one_pass(corpus(), 2) == passes[2]
    assert one_pass(corpus(seed=1)) != passes[0]
    assert one_pass(corpus("other")) != passes[0]


def test_the_order_does_not_change_between_versions():
    """A run that lasts weeks goes on with what was installed later."""
    assert one_pass(corpus(sizes=(4, 3, 2), shuffle_shards=2), 5) == [6, 4, 1, 3, 2, 0, 5, 7, 8]


def test_shuffling_spans_shards_and_a_window_of_all_shards_mixes_them_all():
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    for shuffled, most in ((1, 1), (2, 2), (5, 5)):
        order = one_pass(corpus(shuffle_shards=shuffled))
        changes = sum(a != b for a, b in pairwise(shard_of[order]))
        assert (changes == len(SIZES) - 1) == (most == 1)
        first = 0
        while first < COUNT:  # the windows, one after the other
            end = next(
                end
                for end in range(first + 1, COUNT + 1)
                if all(
                    set(np.flatnonzero(shard_of == shard)) <= set(order[:end])
                    for shard in set(shard_of[order[first:end]])
                )
            )
            assert len(set(shard_of[order[first:end]])) <= most
            first = end


def test_without_shuffling_the_order_is_that_of_the_shards():
    assert one_pass(corpus(shuffle_shards=0), 3) == list(range(COUNT))


def test_runs_stay_together_in_order():
    order = one_pass(corpus(sizes=(6, 6, 5), run_length=3, shuffle_shards=3))
    assert sorted(order) == list(range(17)) != order
    for head, length in ((0, 3), (3, 3), (6, 3), (9, 3), (12, 3), (15, 2)):
        at = order.index(head)
        assert order[at : at + length] == list(range(head, head + length))


def test_nothing_is_dropped_between_epochs():
    """30 samples in batches of 4: what is left over comes first in the next epoch."""
    seen = Counter(
        draw.sample for batch in batches([[corpus()]], range(2 * COUNT // 4)) for draw in batch
    )
    assert seen == Counter(dict.fromkeys(range(COUNT), 2))


@pytest.mark.parametrize("weight", [0.1, 0.5, 1.0, 1.7, 2.0])
def test_a_weight_is_the_passes_an_epoch(weight):
    order = corpus(weight=weight)
    assert [order.seen(epochs) for epochs in (0, 1, 10)] == [
        0,
        int(weight * COUNT + 1e-9),
        round(10 * weight * COUNT),
    ]


def test_corpora_of_a_kind_mix_in_every_batch_by_their_weights():
    corpora = [corpus("a", (40,)), corpus("b", (20,), weight=2.0), corpus("c", (8,), weight=0.5)]
    epoch = (40 + 40 + 4) // GLOBAL_BATCH
    drawn = batches([corpora], range(2 * epoch))
    halves = [Counter(d.corpus for batch in part for d in batch) for part in
              (drawn[:epoch], drawn[epoch:])]  # fmt: skip
    assert halves == [{0: 40, 1: 40, 2: 4}] * 2
    assert any(len({draw.corpus for draw in batch}) > 1 for batch in drawn)
    seen = Counter((draw.corpus, draw.sample) for batch in drawn for draw in batch)
    assert {seen[0, n] for n in range(40)} == {2}
    assert {seen[1, n] for n in range(20)} == {4}
    assert {seen[2, n] for n in range(8)} == {1}


def test_kinds_alternate_in_whole_batches_in_an_order_of_the_epoch():
    kinds = [[corpus("videos", (12,))], [corpus("images", (20,))]]
    drawn = batches(kinds, range(80))
    orders = []
    for epoch in range(10):
        part = drawn[8 * epoch : 8 * (epoch + 1)]
        assert all(len({draw.kind for draw in batch}) == 1 for batch in part)
        orders.append(tuple(batch[0].kind for batch in part))
        assert sorted(orders[-1]) == [0] * 3 + [1] * 5
        for kind, size in ((0, 12), (1, 20)):
            seen = sorted(d.sample for batch in part for d in batch if d.kind == kind)
            assert seen == list(range(size))
    assert len(set(orders)) > 5


def test_any_batch_is_found_by_its_number():
    kinds = [[corpus("a", (9, 8)), corpus("b", (10,), weight=0.3)], [corpus("images", (11,))]]
    whole = batches(kinds, range(60))
    for number in (59, 0, 17, 31):
        assert batches(kinds, range(number, number + 1)) == [whole[number]]


def test_a_part_of_a_batch_is_that_of_any_number_of_processes():
    order = BatchOrder([KindOrder([corpus()], seed=0, kind=0)], global_batch=6, seed=0)
    whole = [order.draws(number, places=range(6)) for number in range(15)]
    for processes in (1, 2, 3, 6):
        each = 6 // processes
        for number, batch in enumerate(whole):
            parts = [
                draw
                for rank in range(processes)
                for draw in order.draws(number, places=range(rank * each, (rank + 1) * each))
            ]
            assert parts == batch


def test_replacements_are_the_next_in_the_order():
    order = corpus()
    samples = one_pass(order)
    for at in (0, COUNT - 3):
        following = [samples[(at + step) % COUNT] for step in range(1, 9)]
        assert list(order.draw(at, kind=0, corpus=0).replacements) == following
    assert corpus(sizes=(1,)).draw(0, kind=0, corpus=0).replacements == ()
