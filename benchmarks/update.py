"""The update step against TRL's DPOTrainer (``loss_type="ipo"``) and padded chosen + rejected concatenation.

All sides run the same minibatches from the same weights, forward, backward, AdamW (fused, as is TRL's) and the
reference's part included; ours also without that part, as where collection has told it. TRL's ipo takes the mean
log-probability per token, so ours does too (``loss.reduction=mean``). The first loss of every side must be the same.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import common
from astprompter.base.records import PreferencePair
from astprompter.models.local.lm import LanguageModel
from astprompter.training.loss import ipo_loss
from astprompter.training.packing import forward_groups, pack, sequence_logps, sequences_of

TAU, RATE, CLIP = 0.1, 1e-6, 10.0


class Ours:
    """Tree-packed minibatches; the reference by one packed pass over all pairs."""

    def __init__(self, shape: common.Shape, device: str, *, autocast: bool = False) -> None:
        self.lm = common.make_lm(shape, device=device, autocast=autocast)
        self.reference = common.make_lm(shape, seed=1, device=device, autocast=autocast)
        self.reference.model.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.lm.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
        self.losses: list[float] = []

    @torch.no_grad()
    def references(self, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        """Mean log π_ref, [pairs, 2]."""
        result = torch.empty(len(pairs), 2)
        for part in forward_groups(pairs, 4096):
            packed = pack(sequences_of([pairs[i] for i in part]))
            result[part] = sequence_logps(self.reference, packed, average=True).view(-1, 2).cpu()
        return result

    def logps(self, lm: LanguageModel, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        """Mean log π, [pairs, 2]."""
        return sequence_logps(lm, pack(sequences_of(pairs)), average=True).view(-1, 2)

    def run(self, pairs: Sequence[PreferencePair], batch: int) -> None:
        """All updates over the pairs, the reference's part included."""
        references = self.references(pairs).to(self.lm.device)
        self.losses = []
        for start in range(0, len(pairs), batch):
            part = slice(start, start + batch)
            logps, ref = self.logps(self.lm, pairs[part]), references[part]
            loss = ipo_loss(logps[:, 0], logps[:, 1], ref[:, 0], ref[:, 1], tau=TAU).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.lm.model.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(float(loss.detach()))


class Collected(Ours):
    """The same where reference and defender have the same weights: collection has told log π_ref already."""

    def __init__(self, shape: common.Shape, device: str, pairs: Sequence[PreferencePair]) -> None:
        super().__init__(shape, device)
        self.known = super().references(pairs)

    def references(self, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        """What collection has told, [pairs, 2]."""
        assert len(pairs) == len(self.known)
        return self.known


class Padded(Ours):
    """Chosen and rejected as rows of one padded batch; logits only where a token is scored, or everywhere."""

    def __init__(self, shape: common.Shape, device: str, *, full: bool) -> None:
        super().__init__(shape, device)
        self.full = full

    @torch.no_grad()
    def references(self, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        """The reference by the same route, eight pairs at a time."""
        return torch.cat([self.logps(self.reference, pairs[i : i + 8]) for i in range(0, len(pairs), 8)])

    def logps(self, lm: LanguageModel, pairs: Sequence[PreferencePair]) -> torch.Tensor:
        """Mean log π, [pairs, 2]."""
        packed = pack(sequences_of(pairs), share=False)
        if not self.full:
            return sequence_logps(lm, packed, average=True).view(-1, 2)
        ids = packed.ids.to(lm.device)
        table = lm.model(input_ids=ids, attention_mask=packed.mask.to(lm.device), use_cache=False).logits
        logps = table.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2).flatten()
        width = ids.size(1)
        picked = logps[(packed.states - packed.states // width).to(lm.device)]
        owners = packed.owners.to(lm.device)
        sums = torch.zeros(len(packed.lengths), device=lm.device).index_add(0, owners, picked)
        return (sums / packed.lengths.to(lm.device)).view(-1, 2)


def trl_side(shape: common.Shape, device: str, pairs: Sequence[PreferencePair], batch: int, *, ahead: bool) -> Any:
    """A function that trains once over the pairs with TRL and returns the losses; ``ahead``: reference precomputed."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()

    class Ready(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they are, in the order given."""

        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *rest: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Keep(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    model, reference = common.make_model(shape, device=device), common.make_model(shape, seed=1, device=device)
    rows = [
        {"prompt": "", "prompt_ids": list(p.prompt_ids), "chosen_ids": list(p.chosen_ids),
         "rejected_ids": list(p.rejected_ids)}
        for p in pairs
    ]  # fmt: skip
    folder = tempfile.mkdtemp()

    def run() -> list[float]:
        keep = Keep()
        trainer = Ready(
            model=model,
            ref_model=reference,
            args=DPOConfig(
                output_dir=folder, per_device_train_batch_size=batch, num_train_epochs=1, learning_rate=RATE,
                loss_type="ipo", beta=TAU, precompute_ref_log_probs=ahead, bf16=False, use_cpu=device == "cpu",
                gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1,
                max_grad_norm=CLIP, lr_scheduler_type="constant", disable_tqdm=True, seed=0, max_length=None,
            ),
            train_dataset=Dataset.from_list(rows), processing_class=common.make_tokenizer(shape.vocabulary),
            callbacks=[keep],
        )  # fmt: skip
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return keep.losses

    return run


def measure(
    makers: Mapping[str, Callable[[], Callable[[], list[float]]]], *, repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[list[float]]]]:
    """Seconds and losses of all sides in turn; each is made anew and freed, since on S not all fit together."""
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    losses: dict[str, list[list[float]]] = {name: [] for name in makers}
    for _ in range(repeats):
        for name, make in makers.items():
            side = make()
            start = common.clock(device)
            losses[name].append(side())
            seconds[name].append(common.clock(device) - start)
            del side
            gc.collect()
    return seconds, losses


def main() -> None:
    """Measure, check that all sides start from the same loss, report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trees", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="also measure bfloat16 products on our side")
    parser.add_argument("--shuffled", action="store_true", help="also measure shuffled minibatches on our side")
    parser.add_argument("--sides", nargs="*", help="measure these sides only, by name; the first should be 'packed'")
    parser.add_argument("--only", help="run this side once and print its memory as JSON, nothing else")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device, batch = common.SHAPES[options.shape], options.device, options.batch
    pairs, per_tree = common.made_pairs(shape, options.trees * (2**options.horizon - 1), horizon=options.horizon)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [pairs[i] for i in order]
    makers: dict[str, Callable[[], Callable[[], list[float]]]] = {}

    def add(name: str, make: Callable[[], Any], data: Sequence[PreferencePair]) -> None:
        def ready() -> Callable[[], list[float]]:
            side = make()
            return side if callable(side) else lambda: (side.run(data, batch), side.losses)[1]

        if options.only in (None, name) and (options.sides is None or name in options.sides):
            makers[name] = ready

    add("packed", lambda: Ours(shape, device), pairs)
    add("packed, reference from collection", lambda: Collected(shape, device, pairs), pairs)
    if options.shuffled:
        add("packed, shuffled", lambda: Ours(shape, device), shuffled)
    if options.bf16:
        add("packed, bf16", lambda: Ours(shape, device, autocast=True), pairs)
    add("padded, full logits", lambda: Padded(shape, device, full=True), pairs)
    add("padded, logits at utterances", lambda: Padded(shape, device, full=False), pairs)
    add("TRL, reference in the step", lambda: trl_side(shape, device, pairs, batch, ahead=False), pairs)
    add("TRL, reference precomputed", lambda: trl_side(shape, device, pairs, batch, ahead=True), pairs)
    if options.only:
        side = makers[options.only]()
        before = common.peak_bytes(device)
        side()
        print(json.dumps({"before": before, "peak": common.peak_bytes(device)}))
        return
    seconds, losses = measure(makers, repeats=options.repeats, device=device)
    first = losses["packed"][0][0]
    for name, values in losses.items():
        if "shuffled" not in name:
            tolerance = 0.05 if "bf16" in name else 2e-3
            assert abs(values[0][0] - first) < tolerance * abs(first), (
                f"{name}: first loss {values[0][0]}, ours {first}"
            )
    each = {name: [value / len(pairs) for value in values] for name, values in seconds.items()}
    factor = common.ratios(each, "packed")
    free = "packed, reference from collection"
    free_factor = common.ratios(each, free) if free in each else {}
    rows = [
        {"side": name, "s_per_pair": sorted(values)[len(values) // 2], "times_ours": factor[name],
         **({"times_ours_from_collection": free_factor[name]} if free in each else {}),
         "first_loss": losses[name][0][0]}
        for name, values in each.items()
    ]  # fmt: skip
    title = (
        f"update, shape {shape.name}, horizon {options.horizon}, {len(pairs)} pairs ({per_tree} a tree), "
        f"{batch} a minibatch, {options.repeats} alternating repeats"
    )
    name = f"update_{shape.name}_h{options.horizon}"
    common.report(name, title, rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
