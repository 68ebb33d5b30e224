"""The judge's model card, written from its figures."""

from __future__ import annotations

from typing import Any

_HEAD = """# Toxicity judge

all-MiniLM-L6-v2 (Apache-2.0; 6 layers of width 384, 22.7 M parameters, float16 safetensors, context {context}), fine-tuned by
`scripts/build_embedded.py judge` as `BertForSequenceClassification`. Six labels, sigmoid: `toxicity`, `severe_toxicity`,
`obscene`, `threat`, `insult`, `identity_attack`. Lower and upper case are the same to it. Use it as
`scorer.spec=hf:FOLDER`, or to confirm what another scorer rewarded (`evaluation.scorers`).

Trained on half {half} of the comments (SHA-1 of the cleaned text modulo 100, the odd ones), without a teacher, so a classifier that is
made of the other half shares neither rows nor teacher with it. The embedded classifier that ships today saw both halves.

| source | rows of the half, used as far as the budget of tokens goes | licence |
|---|---:|---|
| Jigsaw toxic comments (Wikipedia talk), six labels where known | {jigsaw} | labels CC0, text CC-BY-SA-3.0 |
| Civil Comments with toxic spans, share of annotators, weight 0.3 | {toxic_spans} | CC0 |
| Self-dialogue and Topical-Chat turns, as harmless | {talk} | BSD-3-Clause, CDLA-Sharing-1.0 |
| made rows: groups in neutral and hostile frames, insults meant, quoted and denied, refusals | {made} | of this project |

Left out whole, as a second source: Davidson's tweets (MIT).

## Held out

| figure | value |
|---|---:|
"""
_FRAMES = (
    ("neutral_frames", "groups in neutral frames that training does not have"),
    ("hostile_frames", "groups in hostile frames that training does not have"),
    ("insults_meant", "insults that are meant"),
    ("insults_quoted_or_denied", "insults that are quoted or denied"),
    ("refusals_that_quote", "refusals that quote a toxic comment"),
)


def card(figures: dict[str, Any], *, context: int, counts: dict[str, int]) -> str:
    """Markdown: what it is, what it was made of, and its figures beside those of the judge without the made rows."""
    rows = figures["trained_on"] | {"talk": counts["talk"], "made": sum(counts.values()) - counts["talk"]}
    parts = [
        _HEAD.format(context=context, half=figures["half"], **rows),
        *_held_out(figures),
        "\n## With and without the made rows\n\n"
        f"{figures['groups']} groups, {figures['groups_not_in_training']} of them in no training row; shares above 0.5.\n\n"
        "| texts | number | with | without | largest score |\n|---|---:|---:|---:|---:|\n",
        *_frames(figures),
        "\nThe second source, tweets: *offensive* is what most annotators call hate or offensive language.\n\n"
        "| tweets | with | without |\n|---|---:|---:|\n",
        *_second_source(figures),
        "\n## By group\n\nAUC within the comments that mention the group; of toxic comments without it against harmless ones with it\n"
        "(BPSN, low where mentions are called toxic); of harmless ones without against toxic ones with it (BNSP, low where attacks\n"
        "are missed). Jigsaw comments of the test rows and of the other half; groups with ten of each label at least.\n\n"
        "| group | comments | toxic | subgroup | BPSN | BNSP |\n|---|---:|---:|---:|---:|---:|\n",
        *(
            f"| {group} | {row['rows']} | {row['toxic']} | {row['subgroup']:.3f} | {row['bpsn']:.3f} | {row['bnsp']:.3f} |\n"
            for group, row in figures["bias_auc"].items()
        ),
        f"\nLimits: English only; mentions of a group in made frames are simple sentences; a text is cut after {context} tokens; what a\n"
        "refusal quotes counts as harmless, also where the quotation is what somebody wanted to read.\n",
    ]
    return "".join(parts)


def _held_out(figures: dict[str, Any]) -> list[str]:
    jigsaw, talk = figures["jigsaw"], figures["small_talk"]
    labels = [key for key in jigsaw if key.endswith("_auc") and key != "toxicity_auc"]
    lines = [
        (f"Jigsaw ROC AUC, toxicity ({jigsaw['rows']} rows, {jigsaw['positives']} toxic)", f"{jigsaw['toxicity_auc']:.3f}"),
        ("Jigsaw precision, recall, F1 at 0.5",
         f"{jigsaw['precision_at_0.5']:.3f}, {jigsaw['recall_at_0.5']:.3f}, {jigsaw['f1_at_0.5']:.3f}"),
        *((f"Jigsaw ROC AUC of {key.removesuffix('_auc')}", f"{jigsaw[key]:.3f}") for key in labels),
        ("Civil Comments ROC AUC (all collected as toxic)", f"{figures['toxic_spans']['toxicity_auc']:.3f}"),
        (f"dialogue turns called toxic ({talk['turns']})", f"{talk['share_above_0.5']:.2%}"),
    ]  # fmt: skip
    return [f"| {name} | {value} |\n" for name, value in lines]


def _frames(figures: dict[str, Any]) -> list[str]:
    with_, without = figures["judge"], figures["without_made_rows"]
    return [
        f"| {name} | {with_[key]['texts']} | {with_[key]['share_above_0.5']:.1%} | {without[key]['share_above_0.5']:.1%} "
        f"| {with_[key]['largest']:.2f} |\n"
        for key, name in _FRAMES
    ]


def _second_source(figures: dict[str, Any]) -> list[str]:
    pair = [figures[name]["second_source"] for name in ("judge", "without_made_rows")]
    names = {
        "offensive_auc": "ROC AUC, offensive", "hate_auc": "ROC AUC, hate", "precision_at_0.5": "precision at 0.5, offensive",
        "recall_at_0.5": "recall at 0.5, offensive",
    }  # fmt: skip
    lines = (f"| {name} | {pair[0][key]:.3f} | {pair[1][key]:.3f} |\n" for key, name in names.items())
    return [f"| rows | {pair[0]['rows']} | {pair[1]['rows']} |\n", *lines]
