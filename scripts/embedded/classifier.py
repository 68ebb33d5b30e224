"""Train the embedded toxicity classifier: a two-layer BERT that reads the language model's tokens.

A from-scratch encoder of this size learns slowly from labels alone, so a linear model on word and character n-grams
(build time only) teaches it: its probabilities are soft targets for labelled texts and the only targets for fragments,
which have no labels of their own but are what the scorer reads at run time (24 tokens from the middle of something).
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score
from sklearn.pipeline import FeatureUnion
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from .corpus import LABELS, Comment, classifier_rows, read_dialogues, read_goemotions, split_of
from .counterfactuals import GROUPS

LENGTH, BATCH_TOKENS, EPOCHS, PEAK_LR = 128, 4096, 3, 1.5e-3
WEIGHTS = {"jigsaw": 1.0, "toxic_spans": 0.7, "davidson": 0.25, "fragment": 0.5}
TEACHER_SHARE = 0.5  # of a labelled text's toxicity target

Floats = npt.NDArray[np.float64]


@dataclass
class Example:
    """Token ids, a target per label (``nan``: unknown), and a weight."""

    ids: list[int]
    target: list[float]
    weight: float


def train_teacher(rows: list[Comment]) -> Any:
    """Logistic regression on word 1-2-grams and character 2-5-grams."""
    features = FeatureUnion(
        [
            ("word", TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True, max_features=60_000)),
            (
                "char",
                TfidfVectorizer(
                    analyzer="char_wb", ngram_range=(2, 5), min_df=5, sublinear_tf=True, max_features=120_000
                ),
            ),
        ]
    )
    texts = [row.text.lower()[:600] for row in rows]
    matrix = features.fit_transform(texts)
    labels = np.array([(row.labels[0] or 0.0) > 0.5 for row in rows])
    weights = np.array([WEIGHTS[row.source] for row in rows])
    model = LogisticRegression(C=4.0, solver="liblinear")
    model.fit(matrix, labels, sample_weight=weights)

    def predict(batch: list[str]) -> Floats:
        parts = [batch[i : i + 4096] for i in range(0, len(batch), 4096)]
        if not parts:
            return np.zeros(0)
        return np.concatenate(
            [model.predict_proba(features.transform([t.lower()[:600] for t in part]))[:, 1] for part in parts]
        )

    return predict


def fragments(sources: list[str], rng: random.Random, count: int) -> list[str]:
    """Runs of 3 to 40 words from training texts, with a leading space as often as not."""
    found = []
    for _ in range(count):
        words = rng.choice(sources).split(" ")
        size = rng.randint(3, 40)
        start = rng.randint(0, max(0, len(words) - size))
        found.append(rng.choice(("", " ")) + " ".join(words[start : start + size]))
    return found


def neutral_mentions(rng: random.Random, count: int) -> list[str]:
    """Neutral sentences that mention a group, against the bias of comments that mention groups to insult them."""
    people = [
        "person",
        "woman",
        "man",
        "friend",
        "teacher",
        "doctor",
        "boss",
        "cousin",
        "singer",
        "student",
        "couple",
        "family",
    ]
    frames = (
        "I am a {g} {p}.", "My {g} {p} is coming over for dinner.", "The {g} {p} next to me was reading.",
        "She is a {g} {p} from my town.", "I watched a film about a {g} {p}.", "Being {g} is part of who I am.",
        "He has a lot of {g} friends.", "A {g} {p} won the prize this year.", "We talked to a {g} {p} about music.",
        "the president is a {g} {p}", "You are a {g} {p}, right?", "I think {g} people are great.",
    )  # fmt: skip
    return [
        rng.choice(("", " ")) + rng.choice(frames).format(g=rng.choice(GROUPS), p=rng.choice(people))
        for _ in range(count)
    ]


def tokenizer_for(lm_folder: Path, out: Path) -> Any:
    """The language model's tokenizer with its end-of-text token put first, in the place of [CLS]."""
    tokenizer = AutoTokenizer.from_pretrained(lm_folder)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    tokenizer.cls_token = end
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(out)
    return AutoTokenizer.from_pretrained(out)


def new_model(tokenizer: Any, embedding: torch.Tensor | None) -> BertForSequenceClassification:
    """Two layers of width 256; word embeddings start from the language model's."""
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=LENGTH, type_vocab_size=1, pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.15, attention_probs_dropout_prob=0.1, classifier_dropout=0.2,
        num_labels=len(LABELS), id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    if embedding is not None:
        table = model.bert.embeddings.word_embeddings.weight
        with torch.no_grad():
            table.copy_(embedding * (0.05 / embedding.std()))
    return model


def batches(examples: list[Example], rng: random.Random, most: int) -> list[list[int]]:
    """Indices of similar length, about ``most`` padded tokens each, in random order."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids) + rng.random() * 8)
    result: list[list[int]] = [[]]
    for i in order:
        if result[-1] and (len(result[-1]) + 1) * len(examples[i].ids) > most:
            result.append([])
        result[-1].append(i)
    rng.shuffle(result)
    return result


def collate(items: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, items))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in items])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in items])
    return ids, mask


@torch.no_grad()
def predict(model: Any, tokenizer: Any, texts: list[str]) -> Floats:
    """Logits [texts, labels]."""
    model.eval()
    encoded = tokenizer(texts, truncation=True)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    result = np.zeros((len(texts), len(LABELS)))
    for start in range(0, len(order), 128):
        part = order[start : start + 128]
        ids, mask = collate([encoded[i] for i in part], tokenizer.pad_token_id)
        result[part] = model(input_ids=ids, attention_mask=mask).logits.float().numpy()
    return result


def fit(
    model: Any,
    tokenizer: Any,
    examples: list[Example],
    dev: list[Comment],
    log: Path,
    *,
    epochs: int,
    peak: float,
    batch_tokens: int = BATCH_TOKENS,
    autocast: bool = True,
) -> None:
    """Train with linear warm-up and decay, in bfloat16 with ``autocast``; prints dev AUC after every epoch."""
    rng = random.Random(1)
    torch.manual_seed(1)
    learnt = [p for p in model.parameters() if p.requires_grad]
    decayed, rest = [p for p in learnt if p.ndim == 2], [p for p in learnt if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    total = epochs * len(batches(examples, rng, batch_tokens))
    warmup = min(200, total // 10 + 1)
    step, started = 0, time.time()
    for epoch in range(epochs):
        model.train()
        for batch in batches(examples, rng, batch_tokens):
            items = [examples[i] for i in batch]
            ids, mask = collate([item.ids for item in items], tokenizer.pad_token_id)
            target = torch.tensor([item.target for item in items])
            weight = torch.tensor([[item.weight] for item in items]) * (~target.isnan())
            for group in optimizer.param_groups:
                group["lr"] = peak * min((step + 1) / warmup, max(0.0, (total - step) / (0.9 * total)), 1.0)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(input_ids=ids, attention_mask=mask).logits
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                logits.float(), target.nan_to_num(0.0), reduction="none"
            )
            loss = (losses * weight).sum() / weight.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 50 == 0:
                print({"step": step, "of": total, "loss": float(loss.detach())}, flush=True)
        jigsaw = [row for row in dev if row.source == "jigsaw"]
        scores = predict(model, tokenizer, [row.text for row in jigsaw])[:, 0]
        auc = roc_auc_score([row.labels[0] > 0.5 for row in jigsaw], scores)  # type: ignore[operator]
        line = {
            "epoch": epoch + 1,
            "loss": float(loss.detach()),
            "dev_auc": auc,
            "seconds": round(time.time() - started),
        }
        print(line, flush=True)
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def calibrate(model: Any, tokenizer: Any, dev: list[Comment]) -> tuple[float, float]:
    """Scale and shift of the toxicity logit by maximum likelihood on dev, folded into the last layer."""
    rows = [row for row in dev if row.source == "jigsaw"]
    logits = predict(model, tokenizer, [row.text for row in rows])[:, :1]
    labels = [(row.labels[0] or 0.0) > 0.5 for row in rows]
    fitted = LogisticRegression(C=1e6).fit(logits, labels)
    scale, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    with torch.no_grad():
        model.classifier.weight[0] *= scale
        model.classifier.bias[0] = model.classifier.bias[0] * scale + shift
    return scale, shift


def report(model: Any, tokenizer: Any, root: Path, test: list[Comment]) -> dict[str, Any]:
    """Held-out figures: AUC per label, precision and recall at 0.5, reliability, false alarms on small talk."""
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    for source in ("jigsaw", "toxic_spans", "davidson"):
        rows = [row for row in test if row.source == source]
        probabilities = 1 / (1 + np.exp(-predict(model, tokenizer, [row.text for row in rows])))
        truth = np.array([(row.labels[0] or 0.0) > 0.5 for row in rows])
        score = probabilities[:, 0]
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, score > 0.5, average="binary", zero_division=0.0
        )
        figures[source] = {
            "rows": len(rows), "positives": int(truth.sum()), "toxicity_auc": float(roc_auc_score(truth, score)),
            "precision_at_0.5": float(precision), "recall_at_0.5": float(recall), "f1_at_0.5": float(f1),
        }  # fmt: skip
        if source == "jigsaw":
            bins = np.minimum((score * 10).astype(int), 9)
            figures[source]["reliability"] = [
                {"from": b / 10, "rows": int((bins == b).sum()), "mean_score": float(score[bins == b].mean()),
                 "share_toxic": float(truth[bins == b].mean())}
                for b in range(10) if (bins == b).any()
            ]  # fmt: skip
            for i, label in enumerate(LABELS[1:], start=1):
                known = [k for k, row in enumerate(rows) if row.labels[i] is not None]
                real = [rows[k].labels[i] > 0.5 for k in known]  # type: ignore[operator]
                if any(real):
                    figures[source][f"{label}_auc"] = float(roc_auc_score(real, probabilities[known, i]))
    turns = [t for d in read_dialogues(root) if split_of(" ".join(d)) == "test" for t in d][:5000]
    small_talk = 1 / (1 + np.exp(-predict(model, tokenizer, [" " + t for t in turns])[:, 0]))
    figures["small_talk"] = {"turns": len(turns), "share_above_0.5": float((small_talk > 0.5).mean())}
    mentions = [
        f"{opening} {group} {rest}"
        for group in ("gay", "Muslim", "Jewish", "Black", "white", "deaf", "Christian", "transgender", "old", "Mexican")
        for opening, rest in (
            ("I am a", "person and I like tea."),
            ("My", "neighbour is very kind."),
            ("She met a", "woman at work."),
        )
    ]
    scores = 1 / (1 + np.exp(-predict(model, tokenizer, mentions)[:, 0]))
    figures["identity_mentions"] = {
        "texts": len(mentions),
        "mean": float(scores.mean()),
        "share_above_0.5": float((scores > 0.5).mean()),
    }
    return figures


def labelled(rows: list[Comment], tokenizer: Any, teacher: Any, weights: dict[str, float]) -> list[Example]:
    """Examples with their labels, toxicity mixed with the teacher's probability."""
    encoded = tokenizer([row.text for row in rows], truncation=True, max_length=LENGTH)["input_ids"]
    examples = []
    for row, ids, guess in zip(rows, encoded, teacher([row.text for row in rows]), strict=True):
        known = [float("nan") if value is None else value for value in row.labels]
        known[0] = (1 - TEACHER_SHARE) * known[0] + TEACHER_SHARE * float(guess)
        examples.append(Example(ids, known, weights[row.source]))
    return examples


def unlabelled(texts: list[str], targets: Floats, tokenizer: Any, weight: float) -> list[Example]:
    """Examples with a target for toxicity alone."""
    encoded = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    return [
        Example(ids, [float(target), *[float("nan")] * 5], weight) for ids, target in zip(encoded, targets, strict=True)
    ]


def train_classifier(root: Path, lm_folder: Path, out: Path, work: Path) -> None:
    """Teacher, student in two rounds, calibration, figures; writes a normal classifier folder in float16.

    The first round learns from comments. It calls ordinary small talk toxic now and then, because comments that insult
    are short and comments that mention groups often insult; so a second round adds dialogue turns and neutral mentions.
    """
    work.mkdir(parents=True, exist_ok=True)
    rows = list(classifier_rows(root))
    parts = {name: [row for row in rows if row.split == name] for name in ("train", "dev", "test")}
    teacher = train_teacher(parts["train"])
    truth = [(row.labels[0] or 0.0) > 0.5 for row in parts["test"] if row.source == "jigsaw"]
    taught = teacher([row.text for row in parts["test"] if row.source == "jigsaw"])
    teacher_auc = float(roc_auc_score(truth, taught))
    print({"teacher_test_auc": teacher_auc}, flush=True)
    tokenizer = tokenizer_for(lm_folder, out)
    turns = [t for d in read_dialogues(root) if split_of(" ".join(d)) == "train" for t in d]
    comments = [c.text for c in read_goemotions(root) if c.split == "train"]
    first = work / "classifier_first"
    if not (first / "model.safetensors").exists():
        pieces = fragments([*(row.text for row in parts["train"]), *comments, *turns], random.Random(2), 40_000)
        examples = labelled(parts["train"], tokenizer, teacher, WEIGHTS)
        examples += unlabelled(pieces, teacher(pieces), tokenizer, WEIGHTS["fragment"])
        state = work / "lm_state.pt"
        embedding = torch.load(state, weights_only=True)["model"]["transformer.wte.weight"] if state.exists() else None
        model = new_model(tokenizer, embedding)
        fit(model, tokenizer, examples, parts["dev"], work / "classifier_log.jsonl", epochs=EPOCHS, peak=PEAK_LR)
        model.save_pretrained(first)
    model = BertForSequenceClassification.from_pretrained(first, dtype=torch.float32)
    rng = random.Random(3)
    talk = [rng.choice(("", " ")) + turn for turn in rng.sample(turns, 40_000)]
    guesses = teacher(talk)
    talk, guesses = [t for t, g in zip(talk, guesses, strict=True) if g < 0.9], guesses[guesses < 0.9]
    pieces, mentions = fragments(comments, rng, 15_000), neutral_mentions(rng, 3000)
    examples = labelled(parts["train"], tokenizer, teacher, WEIGHTS | {"toxic_spans": 0.25, "davidson": 0.15})
    examples += unlabelled(talk, 0.1 * guesses, tokenizer, 0.7)
    examples += unlabelled(pieces, teacher(pieces), tokenizer, WEIGHTS["fragment"])
    examples += unlabelled(mentions, np.zeros(len(mentions)), tokenizer, 0.7)
    fit(model, tokenizer, examples, parts["dev"], work / "classifier_log.jsonl", epochs=1, peak=6e-4)
    scale, shift = calibrate(model, tokenizer, parts["dev"])
    model = model.half()
    model.save_pretrained(out)
    figures = report(model.float().eval(), tokenizer, root, parts["test"])
    figures |= {"teacher_jigsaw_auc": teacher_auc, "calibration": {"scale": scale, "shift": shift}}
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
