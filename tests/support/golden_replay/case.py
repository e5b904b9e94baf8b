"""One stored case, which remembers what was used and compared, so that nothing is left out."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from golden_replay.settings import Settings
from golden_replay.tolerance import difference
from reelscan.models.weights import load_weights

GIVEN = ("in.", "rng.", "train.", "param.", "teacher.")
"""Prefixes of what is put in; every other tensor of a case is a result."""


@dataclass
class Score:
    """What was compared in a case."""

    compared: set[str] = field(default_factory=set)
    absolute: float = 0.0
    of_tolerance: float = 0.0
    worst: str = ""
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, found: Tensor, stored: Tensor) -> None:
        """Compares a result with the stored one; a failure is told at the end of the case."""
        self.compared.add(name)
        if found.shape != stored.shape:
            self.failures.append(f"{name}: {tuple(found.shape)}, stored {tuple(stored.shape)}")
            return
        gap = difference(found, stored)
        self.absolute = max(self.absolute, gap.absolute)
        if gap.of_tolerance > self.of_tolerance:
            self.of_tolerance, self.worst = gap.of_tolerance, name
        if not gap.of_tolerance <= 1.0:
            self.failures.append(
                f"{name}: off by {gap.absolute:.3g}, {gap.of_tolerance:.3g} times the tolerance"
            )

    def fact(self, name: str, found: object, stored: object) -> None:
        """Compares what is no tensor, exactly."""
        self.compared.add(name)
        if found != stored:
            self.absolute = self.of_tolerance = float("inf")
            self.failures.append(f"{name}: {found!r}, stored {stored!r}")


class Case:
    """NAME.safetensors and NAME.config.json. Tensors are handed out on `device`.

    At the end every result must have been compared, everything given must have been used, and
    every key of the configuration must have been read.
    """

    def __init__(self, path: Path, *, device: torch.device) -> None:
        self.name = path.name.removesuffix(".safetensors")
        self.folder = path.parent
        self.device = device
        # The ordinary loader of checkpoints; a case is one with prefixes.
        self.tensors = load_weights(path)
        config = path.with_name(f"{self.name}.config.json")
        self.settings = Settings(json.loads(config.read_text()))
        self.score = Score()
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        """A given tensor, on the device; counts as used."""
        assert name in self.tensors, f"{self.name} holds no {name}"
        self._used.add(name)
        return self.tensors[name].to(self.device)

    def get(self, name: str) -> Tensor | None:
        """The same, or None."""
        return self[name] if name in self.tensors else None

    def names(self, prefix: str) -> list[str]:
        """Full names of the tensors that start so."""
        return sorted(name for name in self.tensors if name.startswith(prefix))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Given tensors without their prefix, e.g. `group("param.")` for a state dict."""
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}

    def leaf(self, name: str) -> Tensor:
        """A given tensor that collects a gradient."""
        return self[name].clone().requires_grad_()

    def stored(self, name: str) -> Tensor:
        """A result as it is stored, for its shape or for what it says about the run."""
        return self.tensors[name]

    def compare(self, name: str, found: Tensor | None) -> None:
        """Compares a result with the stored tensor of this name."""
        assert name in self.tensors, f"{self.name} holds no {name}"
        if found is None:
            self.score.compared.add(name)
            self.score.failures.append(f"{name}: nothing was computed")
            return
        self.score.add(name, found, self.tensors[name])

    def compare_if_stored(self, name: str, found: Tensor | None) -> None:
        if name in self:
            self.compare(name, found)

    def compare_gradients(
        self, module: nn.Module, *, prefix: str = "grad.", inner: str = ""
    ) -> None:
        """The gradients of a module's parameters with all that are stored under the prefix."""
        parameters = dict(module.named_parameters())
        for name in self.names(prefix + inner):
            key = name.removeprefix(prefix)
            assert key in parameters, f"{self.name}: {name} is the gradient of no parameter"
            self.compare(name, parameters[key].grad)

    def finish(self) -> None:
        """Raises AssertionError that lists what differs and what was left out."""
        results = {
            name
            for name in self.tensors
            if not name.startswith(GIVEN) or name.startswith("train.loss")
        }
        facts = {
            "not compared": sorted(results - self.score.compared),
            "never used": sorted(set(self.tensors) - results - self._used - self.score.compared),
            "settings nobody reads": self.settings.unread(),
        }
        problems = list(self.score.failures)
        problems += [f"{what}: {', '.join(names)}" for what, names in facts.items() if names]
        if not self.score.compared:
            problems.append("nothing was compared")
        assert not problems, "\n".join([self.name, *problems])


def json_file(path: Path) -> Any:
    """What a stored json file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
