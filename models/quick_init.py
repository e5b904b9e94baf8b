"""Building a module whose parameters are about to be loaded, without drawing them first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)


class _NoDraws(TorchFunctionMode):
    """Leaves random fills out: what they would have filled stays as it was allocated."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def without_random_init() -> Iterator[None]:
    """Modules built inside have arbitrary numbers where they would have random ones.

    Constant starts (norms, tables) are as ever. Only for modules that are loaded completely.
    """
    with torch.random.fork_rng(devices=[]), _NoDraws():
        yield
