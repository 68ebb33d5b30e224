"""Build the embedded models and texts from the source sets. CPU or GPU, every stage resumable.

    python scripts/build_embedded.py --data FOLDER --work build/embedded all

Stages, in order: ``lm`` (tokenizer and language model), ``classifier``, ``texts`` (prefixes and
eliciting texts, sampled from the language model and judged by the classifier). ``all`` runs them all.
Results are written to ``src/astprompter/embedded``; states and logs to ``--work``.

    python scripts/build_embedded.py --data FOLDER --work build/embedded lm-large --out build/lm-large

``lm-large`` grows the embedded language model to 18 M parameters and trains it on, for comparisons of
sizes; it is not shipped. To end it early, stop it and run the same command with fewer ``--tokens``.

    python scripts/build_embedded.py --data FOLDER --work build/judge judge --encoder MINILM --out build/judge/folder

``judge`` fine-tunes a sentence encoder as a stronger classifier that shares no row with the embedded one's
half (see judge.py); ``scripts/real_models.py`` calls it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
TARGET = HERE.parent / "src" / "astprompter" / "embedded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("lm", "classifier", "texts", "all", "lm-large", "judge"))
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of source sets, one folder each (see corpus.py)"
    )
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="states and logs")
    parser.add_argument("--tokens", type=int, help="training tokens of the language model (lm: 18 M, lm-large: 3 M)")
    parser.add_argument("--out", type=Path, help="folder of the larger language model, or the judge")
    parser.add_argument("--encoder", type=Path, help="folder of all-MiniLM-L6-v2 (judge only)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--force", action="store_true", help="make the texts anew even where they exist")
    args = parser.parse_args()
    if (args.stage in ("lm-large", "judge")) != (args.out is not None):
        parser.error("lm-large and judge need --out, and no other stage takes it")
    if (args.stage == "judge") != (args.encoder is not None):
        parser.error("judge needs --encoder, and no other stage takes it")
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stage in ("lm", "all"):
        from embedded.lm import train_language_model

        train_language_model(args.data, TARGET / "lm", args.work, args.tokens or 18_000_000)
    if args.stage in ("classifier", "all"):
        from embedded.classifier import train_classifier

        train_classifier(args.data, TARGET / "lm", TARGET / "classifier", args.work)
    if args.stage in ("texts", "all"):
        from embedded.texts import build_texts

        build_texts(args.data, TARGET, force=args.force)
    if args.stage == "lm-large":
        from embedded.growth import train_larger_model

        train_larger_model(args.data, TARGET / "lm", args.out, args.work, args.tokens or 3_000_000)
    if args.stage == "judge":
        from embedded.judge import train_judge

        train_judge(args.data, args.encoder, args.out, args.work)


if __name__ == "__main__":
    main()
