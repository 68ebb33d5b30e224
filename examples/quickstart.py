"""Train an adversary against a model and measure it, with the models and texts that ship with the package.

Run it with ``python examples/quickstart.py [FOLDER]``: less than a minute on one core. It is tiny, so do not expect
much of its adversary; ``astprompter train --preset demo`` is the same for a good one.
"""

import sys

import astprompter as ap

TINY = {
    "rollout.horizon": 2, "rollout.max_new_tokens": 12, "training.updates": 4, "training.pairs_per_iteration": 16,
    "training.batch_size": 8, "training.dev_prefixes": 8, "evaluation.resamples": 500,
}  # fmt: skip

adversary = ap.load_model("embedded", trainable=True)
defender = ap.load_model("embedded")
scorer = ap.load_scorer("embedded")
train, dev, test = (ap.load_prefixes("embedded", split=split) for split in ("train", "dev", "test"))

out = sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"
run = ap.train(adversary, defender, scorer, train, dev=dev, out=out, settings=TINY, progress=True)
result = ap.evaluate({"untuned": defender, "ours": run}, defender, scorer, test[:16], settings=TINY, progress=True)

print(result.table())
print(f"{len(result.failures('ours'))} of 16 prefixes failed; the adversary is in {run.best}")
