"""More than one process: each takes its share of the rows, all learn the same.

``accelerate launch`` (or ``torchrun``) starts the processes and names them in the environment. Prefixes are dealt out
like cards; what was grown goes to every process, so all hold the same pairs, take the same minibatches, and compute
their own share of each. Gradients are summed by hand: that is what DDP does, without wrapping the model, so packing,
caches and saving stay as they are. Randomness is keyed by row, so dealing changes no text. Alone, all of this does
nothing. What travels is JSON in byte tensors, never pickled objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UserError
from .records import Node, Prefix, RolloutTree, Speech, Turn

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


def spread(
    count: int, work: Callable[[list[int]], list[T]], encode: Callable[[T], Any], decode: Callable[[Any], T]
) -> list[T]:
    """Divide ``count`` rows among the processes and give every one all results.

    Args:
        count: Number of rows.
        work: From indices to one result each; called with this process's share.
        encode: From a result to plain JSON values.
        decode: And back.

    Returns:
        One result per row, in order.
    """
    if world() == 1:
        return work(list(range(count)))
    mine = list(share(range(count)))
    rows = [encode(result) for result in work(mine)] if mine else []
    results: list[T | None] = [None] * count
    for owner, found in enumerate(_gather(rows)):
        for index, row in zip(range(owner, count, world()), found, strict=True):
            results[index] = decode(row)
    return [result for result in results if result is not None]


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


def encode_tree(tree: RolloutTree) -> Any:
    """Plain values of a tree."""
    return [tree.prefix.id, tree.prefix.text, [_encode_node(node) for node in tree.children]]


def decode_tree(row: Any) -> RolloutTree:
    """The tree that :func:`encode_tree` took apart."""
    name, text, children = row
    return RolloutTree(Prefix(name, text), [_decode_node(child) for child in children])


def encode_speech(speech: Speech) -> Any:
    """Plain values of a speech."""
    return [speech.text, speech.token_ids, speech.vocabulary, speech.error]


def decode_speech(row: Any) -> Speech:
    """The speech that :func:`encode_speech` took apart."""
    text, ids, vocabulary, error = row
    return Speech(text, None if ids is None else tuple(ids), vocabulary, error)


def _encode_node(node: Node) -> Any:
    turn = node.turn
    numbers = [turn.nll, turn.token_logprobs, turn.tox_utterance, turn.tox_reply, turn.tox_turn, turn.reward]
    told = [encode_speech(turn.utterance), encode_speech(turn.reply), *numbers, turn.error]
    return [told, node.prompt_ids, [_encode_node(child) for child in node.children]]


def _decode_node(row: Any) -> Node:
    (utterance, reply, nll, logprobs, *rest), prompt, children = row
    turn = Turn(decode_speech(utterance), decode_speech(reply), nll, tuple(logprobs), *rest)
    return Node(turn, None if prompt is None else tuple(prompt), [_decode_node(child) for child in children])


def _group() -> Any:
    """``torch.distributed`` where processes have joined, without importing it where none have."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from torch import distributed

    return distributed if distributed.is_initialized() else None


def _gather(rows: list[Any]) -> list[list[Any]]:
    """Every process's rows, by rank."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    content = torch.frombuffer(bytearray(json.dumps(rows).encode("ascii")), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world())]
    _group().all_gather(sizes, torch.tensor([len(content)], device=device))
    longest = int(torch.cat(sizes).max())
    padded = torch.nn.functional.pad(content, (0, longest - len(content)))
    parts = [torch.empty_like(padded) for _ in range(world())]
    _group().all_gather(parts, padded)
    return [json.loads(bytes(part[: int(size)].cpu().tolist())) for part, size in zip(parts, sizes, strict=True)]
