"""What two processes exchange: rows are dealt out, every one gets all results, gradients and numbers add up."""

from __future__ import annotations

from typing import Any

import torch

from astprompter.base.processes import (
    barrier,
    is_main,
    most_over_processes,
    rank,
    share,
    spread,
    sum_gradients,
    sum_over_processes,
    world,
)
from helpers.forked import in_two_processes


def test_rows_are_dealt_out_and_every_process_gets_all_results() -> None:
    def work() -> Any:
        asked: list[list[int]] = []

        def squares(mine: list[int]) -> list[int]:
            asked.append(mine)
            return [i * i for i in mine]

        results = [spread(int, count, squares) for count in (5, 1)]
        barrier()
        return {"place": [rank(), world(), is_main()], "asked": asked, "results": results, "share": share("abcde")}

    first, second = in_two_processes(work)
    assert (first["place"], second["place"]) == ([0, 2, True], [1, 2, False])
    assert first["asked"] == [[0, 2, 4], [0]]
    assert second["asked"] == [[1, 3]]  # of one row, the second process has none
    assert first["results"] == second["results"] == [[0, 1, 4, 9, 16], [0]]
    assert (first["share"], second["share"]) == ("ace", "bd")


def test_gradients_and_numbers_add_up() -> None:
    def work() -> Any:
        one, two, frozen = (torch.nn.Parameter(torch.ones(2), requires_grad=wanted) for wanted in (True, True, False))
        (one * (1.0 + rank())).sum().backward()
        if is_main():
            (two * 5.0).sum().backward()  # without one on the other process, which counts as zero
        sum_gradients([one, two, frozen])
        assert one.grad is not None
        assert two.grad is not None
        assert frozen.grad is None
        return {
            "gradients": [one.grad.tolist(), two.grad.tolist()],
            "sum": sum_over_processes(torch.tensor([1.0 + rank()])).tolist(),
            "most": most_over_processes(3 + 4 * rank()),
        }

    for found in in_two_processes(work):
        assert found == {"gradients": [[3.0, 3.0], [5.0, 5.0]], "sum": [3.0], "most": 7}
