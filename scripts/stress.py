"""Kill training at random moments and resume it until it is done; the result must be that of an unbroken run.

    python scripts/stress.py [KILLS] [SEED] [UPDATES]

Every attempt is a process of its own that runs the real command line and dies by SIGKILL, or in one of four cases is
asked to stop by SIGTERM and must say 143. Every third time the newest checkpoint is damaged too. Exits with 1 when a
single byte or log row differs.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SENTENCES = [
    "The garden is lovely in spring, and the bees come back every year.",
    "I think the train was late again, but nobody seemed to mind.",
    "Could you bring a banana and some tea when you visit us?",
    "We watched the game, talked about music and went home early.",
]
SETTINGS = [
    "rollout.max_new_tokens=6", "rollout.horizon=2", "training.pairs_per_iteration=9",
    "training.batch_size=3", "training.dev_every=2", "training.dev_prefixes=4", "training.learning_rate=1e-3",
    "training.warmup_updates=1", "training.min_margin=0", "training.save_pairs=true", "scorer.spec=word:a",
]  # fmt: skip
SAME_BYTES = ("checkpoint/policy.safetensors", "checkpoint/optimizer.safetensors", "best/model.safetensors")
LOGS = ("log.jsonl", "pairs.jsonl", "trees.jsonl")


def tiny_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    end = "<|endoftext|>"
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
    torch.manual_seed(0)
    config = GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=4, vocab_size=len(whole))
    GPT2LMHeadModel(config).save_pretrained(folder)
    whole.save_pretrained(folder)


def train(arguments: list[str]) -> None:
    """Run the command line in this process, silently, and leave it without cleaning up."""
    from astprompter.cli.app import main

    sys.argv = ["astprompter", "train", *arguments]
    output, code = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        sys.__stderr__.write(output.getvalue())
    os._exit(code)


def attempt(arguments: list[str], seconds: float | None, number: int = signal.SIGKILL) -> int | None:
    """Exit code of a training, or ``None`` when it was ended by a signal after ``seconds``, as is right."""
    child = os.fork()
    if child == 0:
        os.setsid()
        train(arguments)
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code in (-number, 128 + number) else code  # -number: before it listens; 0: it was done just then


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in {"seconds", "rates"}} for row in rows]


def differences(run: Path, reference: Path) -> list[str]:
    found = [  # noqa: RUF100
        name for name in SAME_BYTES
        if hashlib.sha256((run / name).read_bytes()).digest() != hashlib.sha256((reference / name).read_bytes()).digest()
    ]  # fmt: skip
    for name in LOGS:
        ours, theirs = rows_of(run / name), rows_of(reference / name)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
            found.append(f"{name} from row {at + 1} on ({len(ours)} and {len(theirs)} rows)")
    return found


def lost(run: Path, reference: Path) -> int:
    """Rows of the unbroken run's logs that a run lacks."""
    pairs = [(rows_of(reference / name), rows_of(run / name)) for name in LOGS]
    return sum(row not in ours for theirs, ours in pairs for row in theirs)


def damage(run: Path, chance: random.Random) -> bool:
    """Flip a bit of the newest checkpoint, where an older one is left to fall back on."""
    if not ((run / "checkpoint").is_dir() and (run / "checkpoint.old").is_dir()):
        return False
    path = chance.choice(sorted((run / "checkpoint").iterdir()))
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1
    path.write_bytes(content)
    return True


def main() -> int:
    kills_wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    updates = int(sys.argv[3]) if len(sys.argv) > 3 else 24
    import torch
    import torch._dynamo  # which the optimizer loads: here once, for all attempts

    import astprompter.cli.app
    import astprompter.workflows.train  # noqa: F401

    torch.set_num_threads(1)
    kills = terms = damaged = runs = rows_lost = 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder / "model")
        gc.freeze()  # no search for garbage touches, and so copies, what all attempts share
        prefixes = folder / "prefixes.jsonl"
        prefixes.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
        sources = [f"data.{part}={prefixes}" for part in ("train", "dev", "test", "eliciting")]
        models = [f"{part}.path={folder / 'model'}" for part in ("adversary", "defender")]
        settings = [*sources, *models, *SETTINGS, f"training.updates={updates}"]
        began = time.monotonic()
        if attempt(["-o", str(folder / "whole"), *settings], None) != 0:
            return 1
        length = time.monotonic() - began
        print(f"an unbroken run takes {length:.1f} s")
        while kills < kills_wanted and not wrong:
            runs += 1
            run, code, patience = folder / f"run{runs}", None, length
            while code is None:
                begun = (run / "config.json").is_file()
                arguments = ["-o", str(run), "--resume"] if begun else ["-o", str(run), *settings]
                number = signal.SIGTERM if chance.random() < 0.25 else signal.SIGKILL
                code = attempt(arguments, chance.uniform(0, patience), number)
                patience *= 1.1  # on a machine that has become busy no attempt might get anywhere
                if code is None:
                    kills, terms = kills + (number == signal.SIGKILL), terms + (number == signal.SIGTERM)
                    damaged += damage(run, chance) if (kills + terms) % 3 == 0 else 0
            wrong += [f"run {runs}: exit code {code}"] if code else differences(run, folder / "whole")
            rows_lost += 0 if code else lost(run, folder / "whole")
            print(
                f"run {runs} done after {kills} kills and {terms} SIGTERMs in all, {damaged} damaged checkpoints; "
                f"different: {wrong or 'nothing'}"
            )
    print(
        f"kills survived {kills}, SIGTERMs {terms}, damaged checkpoints {damaged}, runs {runs}, rows lost {rows_lost}, "
        f"files or logs that differ {len(wrong)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
