"""A batch in parts that are moved to the device one by one, each time they are asked for."""

from collections.abc import Sequence
from typing import overload

import torch

from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain.objective import TrainingBatch
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.training_data import to_training_batch


class BatchParts(Sequence[TrainingBatch]):
    """Equal parts of a batch, normalised and tokenized; `count` divides its size."""

    def __init__(
        self,
        batch: Batch,
        count: int,
        *,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        device: torch.device,
    ) -> None:
        self._batch = batch
        self._count = count
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._device = device
        self._size = len(batch.captions) // count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> TrainingBatch: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[TrainingBatch]: ...
    def __getitem__(self, number: int | slice) -> TrainingBatch | Sequence[TrainingBatch]:
        if isinstance(number, slice):
            return [self[index] for index in range(self._count)[number]]
        if not 0 <= number < self._count:
            raise IndexError(number)
        rows = slice(number * self._size, (number + 1) * self._size)
        return to_training_batch(
            self._batch.rows(rows),
            tokenizer=self._tokenizer,
            preprocessing=self._preprocessing,
            device=self._device,
        )
