"""A policy in shards (FSDP): each process keeps its part of the weights, gradients and moments, for large policies.

An update marches in step: every process takes the same number of forward and backward passes, each block of layers is
gathered when its turn comes and freed after it, and its gradient is summed straight into shards (``fully_shard`` of
torch). Rollouts do not: some conversations are longer. So for collecting and for dev evaluation all weights are
gathered once and freed at the end. What is saved is whole: the same files, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import UserError
from ..base.processes import is_main, most_over_processes, sum_gradients, whole, world
from ..config import Settings
from ..models.local.lm import LanguageModel
from .packing import Packed, sequence_logps


def check_shard(settings: Settings) -> None:
    """Refuse ``training.shard`` where it makes no sense.

    Raises:
        UserError: There is one process only, adapters are tuned, or torch is too old.
    """
    if not settings.training.shard:
        return
    from torch.distributed.fsdp import FSDPModule

    if world() == 1:
        raise UserError(
            "training.shard=true needs several processes: start them with 'torchrun --nproc-per-node N -m astprompter "
            "train ...', or set training.shard=false"
        )
    if settings.adversary.lora_rank:
        raise UserError(
            "training.shard=true does not go with adversary.lora_rank: adapters have small gradients and moments, so "
            "there is nothing to shard; drop one of the two"
        )
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise UserError(f"training.shard=true needs a later torch than {torch.__version__}; 2.13 is known to do")


class Placement:
    """Where a model's weights are: whole in every process, or in shards.

    Attributes:
        sharded: Whether they are in shards.
    """

    def __init__(self, lm: LanguageModel, *, shard: bool) -> None:
        """Leave the model as it is, or cut it up; of each weight a process keeps its own rows.

        Args:
            lm: The policy, or a frozen model whose forward passes all processes take in step. Whole, and equal in all
                processes; its parameters are others afterwards.
            shard: Whether to cut it up; needs several processes.
        """
        self.lm, self.sharded = lm, shard
        self._root: Any = None
        self._blocks: list[Any] = []
        if shard:
            self._cut(lm.model)

    def _cut(self, model: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.lm.device.type, (world(),))
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        self._blocks = [fully_shard(block, mesh=mesh, reshard_after_forward=True) for block in _blocks_of(model)]
        # A pass ends with the output layer and its backward pass begins there, so that stays for it.
        self._root = fully_shard(_Pass(model), mesh=mesh, reshard_after_forward=frozen)
        for part in (*self._blocks, self._root):
            part.set_gradient_divide_factor(1.0)  # the loss has the mean in it, as without shards
            part.set_force_sum_reduction_for_comms(True)
        with torch.no_grad():
            self._root(lambda: None)  # tells FSDP which module is the outermost, before a block runs alone
        self._root.reset_iter_state()

    def logps(self, packed: Packed, *, average: bool = False) -> Tensor:
        """As :func:`~astprompter.training.packing.sequence_logps`; with shards, all processes call it in step."""
        return self.run(partial(sequence_logps, self.lm, packed, average=average))

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """What a computation with the model gives; with shards, all processes call it in step."""
        if not self.sharded:
            return compute()
        result: Tensor = self._root(compute)
        if not torch.is_grad_enabled():
            self._root.reset_iter_state()  # see gathered
        return result

    def in_step(self, groups: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """This process's forward passes; with shards, empty ones follow until it has as many as every other."""
        missing = most_over_processes(len(groups)) - len(groups) if self.sharded else 0
        return [*groups, *([] for _ in range(missing))]

    def sum_gradients(self) -> None:
        """Add up the gradients over the processes; shards were summed in the backward pass."""
        if not self.sharded:
            sum_gradients(self.lm.model.parameters())

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights are whole inside, for passes that the processes do not take in step; no gradients."""
        if not self.sharded:
            yield
            return
        for block in self._blocks:
            block.set_reshard_after_forward(False)
        for part in (*self._blocks, self._root):
            part.unshard()
        try:
            yield
        finally:
            # FSDP notes every pass, and gathers ahead by these notes when the next backward pass comes. They differ by
            # process here, and processes that gather different blocks wait for each other for ever: drop them.
            self._root.reset_iter_state()
            for block in self._blocks:
                block.set_reshard_after_forward(True)


class _Pass(nn.Module):
    """Outermost module for FSDP; its forward pass is any function that uses the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Tensor | None]) -> Tensor | None:
        return compute()


def _blocks_of(model: Any) -> nn.ModuleList:
    """The transformer blocks: the outermost list of as many modules as there are layers."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((found for found in lists if len(found) == model.config.num_hidden_layers), nn.ModuleList())


def kept(tensor: Tensor) -> Tensor:
    """As :func:`whole`; what was in shards goes to the first process's main memory, and elsewhere nothing is kept."""
    full = whole(tensor)
    if full is tensor:
        return tensor
    return full.cpu() if is_main() else torch.empty(0)


def placed_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor where ``other`` is: on its device, and in shards if it is."""
    value = value.to(other.device)
    if not hasattr(other, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = other.device_mesh, other.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)  # every process has read the whole


def kept_weights(model: Any) -> dict[str, Tensor] | None:
    """All weights of a model in shards, whole, by the names of its state; ``None`` if it is in none.

    Tied weights stay one tensor. All processes call it in step; see :func:`kept` for where the result is.
    """
    if not any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        return None
    found: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in found:
            found[id(value)] = kept(value.detach())
        weights[name] = found[id(value)]
    return weights
