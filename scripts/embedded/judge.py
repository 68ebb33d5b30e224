"""Train the judge: a pretrained sentence encoder (MiniLM) fine-tuned as toxicity classifier.

It is larger than the embedded classifier (22.7 M parameters, half of them word embeddings) and knows English before it
sees a label, so it may say whether what the embedded classifier rewarded is real. For that it is made of its own half
of the comments (:func:`~embedded.corpus.half_of`), without that classifier's teacher, and the tweets are left out whole, as a
second source to measure on. Two rounds: comments; then comments again, ordinary dialogue turns, and the
counterfactual rows. The first round's model is kept to compare with: it is the judge without those rows.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer, BertForSequenceClassification

from . import counterfactuals as rows_of
from .classifier import Example, calibrate, fit, predict, report
from .corpus import LABELS, Comment, classifier_rows, half_of, read_dialogues, split_of
from .judge_card import card

HALF = 1  # of the comments; the other half is the embedded classifier's, once it is built of one half
LENGTH, TRAIN_LENGTH, BATCH_TOKENS = 128, 64, 1024
FIRST_TOKENS, AGAIN_TOKENS, FROM_SPANS = 600_000, 120_000, 1000
WEIGHTS = {"jigsaw": 1.0, "toxic_spans": 0.3}
COUNTS = {"neutral": 2500, "hostile": 1800, "meant": 1200, "not_meant": 1200, "refusals": 1200, "talk": 2000}
QUOTED = 0.03  # target of what is quoted, denied or refused
SECOND_SOURCE, BACKGROUND = 2500, 1500  # rows measured of the set left out; of the other half, besides all mentions

Made = dict[str, list[str]]


def train_judge(root: Path, encoder: Path, out: Path, work: Path) -> None:
    """Both rounds, calibration, figures and card; a normal classifier folder in float16. Goes on after a finished round."""
    work.mkdir(parents=True, exist_ok=True)
    rows = [row for row in classifier_rows(root) if row.source in WEIGHTS]
    own = [row for row in rows if row.split == "train" and half_of(row.text) == HALF]
    dev = [row for row in rows if row.split == "dev" and half_of(row.text) == HALF]
    tokenizer = tokenizer_of(encoder, work / "tokenizer")
    words = rows_of.insults(own)
    first, second = work / "first", work / "second"
    log = work / "judge_log.jsonl"
    if not (first / "model.safetensors").exists():
        model = new_judge(encoder)
        rng = random.Random(1)
        spans = [row for row in own if row.source != "jigsaw"]  # nearly all toxic, by annotators who disagree
        used = [row for row in own if row.source == "jigsaw"] + rng.sample(spans, min(FROM_SPANS, len(spans)))
        chosen = within(comments(used, tokenizer), FIRST_TOKENS, rng)
        fit(model, tokenizer, chosen, dev, log, epochs=1, peak=2e-4, batch_tokens=BATCH_TOKENS, autocast=False)
        model.save_pretrained(first)
    if not (second / "model.safetensors").exists():
        model = new_judge(first)
        examples = second_round(root, own, tokenizer, words, model)
        fit(model, tokenizer, examples, dev, log, epochs=1, peak=1e-4, batch_tokens=BATCH_TOKENS, autocast=False)
        model.save_pretrained(second)
    without, model = new_judge(first), new_judge(second)
    scale, shift = calibrate(model, tokenizer, dev)
    calibrate(without, tokenizer, dev)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    model = model.float().eval()
    figures = report(model, tokenizer, root, [row for row in classifier_rows(root) if row.split == "test"])
    figures |= {"calibration": {"scale": scale, "shift": shift}, "half": HALF, "trained_on": trained_on(own)}
    figures |= targets(model, without.eval(), tokenizer, root, rows, words)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    (out / "README.md").write_text(card(figures, context=LENGTH, counts=COUNTS))
    print(json.dumps(figures, indent=2), flush=True)


def tokenizer_of(encoder: Path, out: Path) -> Any:
    """The encoder's tokenizer, which cuts after :data:`LENGTH` tokens and pads by itself no more."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(out)
    return AutoTokenizer.from_pretrained(out)


def new_judge(folder: Path) -> Any:
    """A classifier over :data:`~embedded.corpus.LABELS` in float32; word embeddings stay, so that groups that no row names move along."""
    model = BertForSequenceClassification.from_pretrained(
        folder, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)}, problem_type="multi_label_classification", dtype="float32",
    )  # fmt: skip
    model.bert.embeddings.requires_grad_(False)
    return model


def comments(rows: Sequence[Comment], tokenizer: Any) -> list[Example]:
    """Comments with the labels that they have."""
    encoded = tokenizer([row.text for row in rows], truncation=True, max_length=TRAIN_LENGTH)["input_ids"]
    return [
        Example(ids, [float("nan") if value is None else value for value in row.labels], WEIGHTS[row.source])
        for row, ids in zip(rows, encoded, strict=True)
    ]


def within(examples: list[Example], tokens: int, rng: random.Random) -> list[Example]:
    """All toxic examples and as many others as the budget leaves, in random order, cut at so many tokens."""
    order = sorted(rng.sample(examples, len(examples)), key=lambda example: not example.target[0] > 0.5)
    total, kept = 0, []
    for example in order:
        total += len(example.ids)
        if total > tokens:
            break
        kept.append(example)
    return rng.sample(kept, len(kept))


def second_round(
    root: Path, own: Sequence[Comment], tokenizer: Any, words: rows_of.Insults, first: Any
) -> list[Example]:
    """Comments again, those with another group put in, dialogue turns that the first round found harmless, made rows."""
    rng = random.Random(2)
    encoded = comments(own, tokenizer)
    again, total = [], 0
    for example in rng.sample(encoded, len(encoded)):
        total += len(example.ids)
        if total > AGAIN_TOKENS:
            break
        again.append(example)
    again += comments(rows_of.swapped(own, rng), tokenizer)
    turns = [turn for dialogue in read_dialogues(root) if split_of(" ".join(dialogue)) == "train" for turn in dialogue]
    talk = rng.sample(turns, COUNTS["talk"])
    harmless = predict(first, tokenizer, talk)[:, 0] < 0
    quotes = rows_of.excerpts(own)

    def made(frames: Sequence[str], key: str, target: float) -> list[Example]:
        texts = rows_of.fill(frames, rows_of.GROUPS, words, quotes, rng, COUNTS[key])
        return as_examples(texts, target, tokenizer)

    return [
        *again,
        *as_examples([turn for turn, fine in zip(talk, harmless, strict=True) if fine], 0.0, tokenizer),
        *made(rows_of.NEUTRAL, "neutral", 0.0),
        *made(rows_of.HOSTILE, "hostile", 1.0),
        *made(rows_of.MEANT, "meant", 1.0),
        *made(rows_of.NOT_MEANT, "not_meant", QUOTED),
        *made(rows_of.REFUSALS, "refusals", QUOTED),
    ]


def as_examples(texts: Sequence[str], target: float, tokenizer: Any) -> list[Example]:
    """Examples with a target for toxicity alone."""
    encoded = tokenizer(list(texts), truncation=True, max_length=TRAIN_LENGTH)["input_ids"] if texts else []
    return [Example(ids, [target, *[float("nan")] * 5], 0.5) for ids in encoded]


def trained_on(own: Sequence[Comment]) -> dict[str, int]:
    """Rows that the judge's half holds, by set."""
    return {source: sum(row.source == source for row in own) for source in WEIGHTS}


def targets(
    model: Any, without: Any, tokenizer: Any, root: Path, rows: Sequence[Comment], words: rows_of.Insults
) -> dict[str, Any]:
    """What is asked of a judge, each beside the same of the first round's: groups, quotes, refusals, a second source."""
    rng = random.Random(4)
    groups = (*rows_of.GROUPS, *rows_of.HELD_OUT_GROUPS)
    unseen = [row for row in rows if row.split == "test"]
    quotes = rows_of.excerpts(unseen)
    other = [row for row in rows if row.source == "jigsaw" and row.split != "dev"]
    other = [row for row in other if row.split == "test" or half_of(row.text) != HALF]
    tweets = [row for row in classifier_rows(root) if row.source == "davidson"]
    tweets = rng.sample(tweets, min(SECOND_SOURCE, len(tweets)))
    made: Made = {
        "neutral_frames": rows_of.every(rows_of.HELD_OUT_NEUTRAL, groups, words, rng),
        "hostile_frames": rows_of.every(rows_of.HELD_OUT_HOSTILE, groups, words, rng),
        "insults_meant": rows_of.fill(rows_of.HELD_OUT_MEANT, groups, words, quotes, rng, 400),
        "insults_quoted_or_denied": rows_of.fill(rows_of.HELD_OUT_NOT_MEANT, groups, words, quotes, rng, 400),
        "refusals_that_quote": rows_of.fill(rows_of.HELD_OUT_REFUSALS, groups, words, quotes, rng, 400),
    }
    found: dict[str, Any] = {"groups": len(groups), "groups_not_in_training": len(rows_of.HELD_OUT_GROUPS)}
    for name, judge in (("judge", model), ("without_made_rows", without)):
        found[name] = {key: shares(probabilities(judge, tokenizer, texts)) for key, texts in made.items()}
        found[name]["second_source"] = second_source(tweets, probabilities(judge, tokenizer, [t.text for t in tweets]))
    found["bias_auc"] = bias_auc(model, tokenizer, other, rng)
    return found


def probabilities(model: Any, tokenizer: Any, texts: list[str]) -> Any:
    """Toxicity of each text."""
    return 1 / (1 + np.exp(-predict(model, tokenizer, texts)[:, 0]))


def shares(scores: Any) -> dict[str, float]:
    """How many, the share above 0.5, the mean and the largest."""
    return {
        "texts": len(scores), "share_above_0.5": float((scores > 0.5).mean()), "mean": float(scores.mean()),
        "largest": float(scores.max()),
    }  # fmt: skip


def second_source(tweets: Sequence[Comment], scores: Any) -> dict[str, float]:
    """The set left out: AUC of hate against the rest, and of hate or offence against neither, by most votes."""
    shares_ = np.array([tweet.labels[0] or 0.0 for tweet in tweets])
    harmful, hateful = shares_ > 0.25, shares_ > 0.5
    flagged = scores > 0.5
    return {
        "rows": len(tweets), "offensive_auc": float(roc_auc_score(harmful, scores)),
        "hate_auc": float(roc_auc_score(hateful, scores)),
        "precision_at_0.5": float(harmful[flagged].mean()) if flagged.any() else float("nan"),
        "recall_at_0.5": float(flagged[harmful].mean()),
    }  # fmt: skip


def bias_auc(model: Any, tokenizer: Any, rows: Sequence[Comment], rng: random.Random) -> dict[str, dict[str, float]]:
    """Borkan and others' three AUCs by group, on comments that no round saw; groups with too few of a label left out.

    Subgroup: within the comments that mention the group. BPSN: toxic comments without it against harmless ones with it
    (low: mentions are called toxic). BNSP: harmless without it against toxic with it (low: attacks on it are missed).
    """
    patterns = {
        group: re.compile(rf"\b{group}s?\b", re.IGNORECASE) for group in (*rows_of.GROUPS, *rows_of.HELD_OUT_GROUPS)
    }
    mentions = [{group for group, pattern in patterns.items() if pattern.search(row.text)} for row in rows]
    chosen = set(rng.sample(range(len(rows)), min(BACKGROUND, len(rows))))
    used = [i for i, groups in enumerate(mentions) if i in chosen or groups - {"old", "American"}]
    scores = probabilities(model, tokenizer, [rows[i].text for i in used])
    truth = np.array([(rows[i].labels[0] or 0.0) > 0.5 for i in used])
    table = {}
    for group in patterns:
        inside = np.array([group in mentions[i] for i in used])
        if min((inside & truth).sum(), (inside & ~truth).sum()) < 10:
            continue
        parts = {"subgroup": inside, "bpsn": inside ^ truth, "bnsp": ~(inside ^ truth)}
        table[group] = {"rows": int(inside.sum()), "toxic": int((inside & truth).sum())} | {
            name: float(roc_auc_score(truth[part], scores[part])) for name, part in parts.items()
        }
    return table
