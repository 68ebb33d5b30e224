"""More than one process: each takes its share of the rows, all learn the same.

``accelerate launch`` (or ``torchrun``) starts the processes and names them in the environment. Prefixes are dealt out
like cards; what was grown goes to every process, so all hold the same pairs, take the same minibatches, and compute
their own share of each. Gradients are summed by hand: that is what DDP does, without wrapping the model, so packing,
caches and saving stay as they are. Randomness is keyed by row, so dealing changes no text. Alone, all of this does
nothing. What travels is JSON in byte tensors, never pickled objects.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


def join() -> None:
    """Join the other processes, where the environment names any; call it once, before anything is loaded.

    Raises:
        UserError: Several processes were asked for, and the launcher started one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        if "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
            raise UserError(
                "accelerate was asked for several processes and started one: '--cpu' needs an mpirun host file; use "
                "'accelerate launch --multi_gpu --num_processes N', which also works where there is no GPU"
            )
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")


def leave() -> None:
    """Part from the other processes."""
    if world() > 1:
        from torch import distributed

        distributed.destroy_process_group()


def rank() -> int:
    """This process's number; 0 is the one that writes and shows progress."""
    return _group().get_rank() if _group() is not None else 0


def world() -> int:
    """How many processes there are."""
    return _group().get_world_size() if _group() is not None else 1


def is_main() -> bool:
    """Whether this is the process that writes and shows progress."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        _group().barrier()


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's items (also rows of a tensor): every ``world``-th from its rank on."""
    return items[rank() :: world()]


def spread(kind: type[T], count: int, work: Callable[[list[int]], list[T]]) -> list[T]:
    """Divide ``count`` rows among the processes and give every one all results; alone, this is ``work``.

    Args:
        kind: Type of a result: a record of plain values.
        count: Number of rows.
        work: From indices to one result each; called with this process's share.

    Returns:
        One result per row, in order.
    """
    if world() == 1:
        return work(list(range(count)))
    mine = list(share(range(count)))
    shares = [from_json(kind, content) for content in _gather(to_json(kind, work(mine) if mine else []))]
    return [shares[row % world()][row // world()] for row in range(count)]


def to_json(kind: type[T], records: list[T]) -> bytes:
    """Records as JSON; numbers that are not finite, and half characters, keep what they are."""
    return json.dumps(_rows_of(kind).dump_python(records)).encode("ascii")  # type: ignore[arg-type]


def from_json(kind: type[T], content: bytes) -> list[T]:
    """The records that :func:`to_json` wrote."""
    rows: list[T] = _rows_of(kind).validate_python(json.loads(content))  # type: ignore[arg-type]
    return rows


@functools.cache  # making one takes longer than what it does to a wave of conversations
def _rows_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up every gradient over the processes, in place; a parameter without one here counts as zero."""
    if world() == 1:
        return
    import torch

    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in wanted if parameter.grad is not None])
    _group().all_reduce(flat)
    start = 0
    for parameter in wanted:
        if parameter.grad is not None:
            parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum of a tensor over the processes, the same on each."""
    if world() > 1:
        _group().all_reduce(values)
    return values


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together if it is in shards; then all processes call it in step."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def most_over_processes(count: int) -> int:
    """Largest of a number over the processes."""
    if world() == 1:
        return count
    import torch

    most = torch.tensor([count], device="cuda" if torch.cuda.is_available() else "cpu")
    _group().all_reduce(most, _group().ReduceOp.MAX)
    return int(most)


def _group() -> Any:
    """``torch.distributed`` where processes have joined, without importing it where none have."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from torch import distributed

    return distributed if distributed.is_initialized() else None


def _gather(content: bytes) -> list[bytes]:
    """Every process's bytes, by rank."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mine = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world())]
    _group().all_gather(sizes, torch.tensor([len(mine)], device=device))
    longest = int(torch.cat(sizes).max())
    padded = torch.nn.functional.pad(mine, (0, longest - len(mine)))
    parts = [torch.empty_like(padded) for _ in range(world())]
    _group().all_gather(parts, padded)
    return [bytes(part[: int(size)].cpu().tolist()) for part, size in zip(parts, sizes, strict=True)]
