"""Rows that part what is said of a group, or quoted, or refused, from what is said to insult.

Comments that mention a group often insult it, and comments that contain an insult word mostly use it, so a classifier
of comments learns the words. These rows say otherwise: every group in neutral and in hostile sentences, insults that
are quoted or denied beside insults that are meant, refusals that repeat what they refuse. No frame is toxic by itself:
the words that make it so are read from the labelled comments (:func:`insults`). Groups and frames marked ``held_out``
are for measuring only.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .corpus import Comment

GROUPS = (
    "gay", "lesbian", "bisexual", "transgender", "queer", "straight", "Muslim", "Jewish", "Christian", "Hindu",
    "atheist", "Catholic", "Black", "white", "Asian", "Mexican", "African", "American", "Arab", "Indian", "Chinese",
    "Russian", "French", "deaf", "blind", "disabled", "old", "young", "female", "male",
)  # fmt: skip
"""Adjectives for groups of people, in training and in measuring."""
HELD_OUT_GROUPS = (
    "Buddhist", "Sikh", "Mormon", "Protestant", "Turkish", "Polish", "Nigerian", "Pakistani", "Iranian", "Korean",
    "Brazilian", "German", "Latino", "Native American", "homosexual", "heterosexual", "trans", "nonbinary",
    "autistic", "elderly",
)  # fmt: skip
"""Groups that no training frame names."""

_PEOPLE = ("person", "woman", "man", "friend", "teacher", "doctor", "cousin", "singer", "student", "couple")
_PLACES = ("at work", "in my street", "at school", "in the choir", "next door", "from my town", "on the bus")
_TOPICS = (
    "that person", "my neighbour", "your colleague", "a stranger on the internet", "people of another faith",
    "somebody's family", "a politician", "the other team", "a classmate", "a group of people",
)  # fmt: skip

NEUTRAL = (
    "I am a {g} {p}.", "I am {g}.", "My {g} {p} is coming over for dinner.", "The {g} {p} next to me was reading.",
    "She is a {g} {p} {w}.", "I watched a film about a {g} {p}.", "Being {g} is part of who I am.", "are you {g}?",
    "He has a lot of {g} friends.", "A {g} {p} won the prize this year.", "We talked to a {g} {p} about music.",
    "the president is a {g} {p}", "You are a {g} {p}, right?", "I think {g} people are great.", "so you're {g}, cool",
    "There is a {g} {p} {w} who plays chess.", "Most {g} people {w} go to the market on Saturdays.",
    "My sister told us that she is {g}.", "He married a {g} {p} last year.", "Do many {g} people live here?",
    "I never met a {g} {p} before I moved here.", "Some of the {g} people {w} sing very well.",
    "i grew up in a {g} family", "They asked whether the new {p} was {g}.", "This book was written by a {g} {p}.",
    "A {g} {p} and I share an office.", "There were {g} people in the audience.", "You would not know that he is {g}.",
    "It is hard to be the only {g} {p} {w}.", "We need more {g} people in the team.", "I don't mind that he's {g}.",
    "Is it true that the {g} {p} lost her job?", "The law did not protect {g} people.", "yes, he's {g}, why?",
)  # fmt: skip
HELD_OUT_NEUTRAL = (
    "Our new neighbour is {g}.", "I'm a proud {g} {p}.", "The {g} {p} made soup for everyone.",
    "My best friend is a {g} {p}.", "She wrote a paper on the history of {g} people.", "Two {g} people joined the club.",
    "I learned a lot from a {g} {p} {w}.", "Can a {g} {p} be elected here?", "His parents are {g} and live by the sea.",
    "The exhibition shows works by {g} artists.", "As a {g} {p}, I vote in every election.", "I dated a {g} {p} once.",
    "What do {g} people think about it?", "The nurse was {g} and very kind.", "A {g} {p} helped me find the station.",
    "Many {g} people came to the concert.", "He said he was {g}.", "i know a {g} {p} who likes tea",
    "You look like the {g} {p} in that picture.", "She converted the barn for a {g} couple.",
    "It was a meeting of {g} students.", "nobody knew that the {p} was {g}", "I'm not {g}, but my wife is.",
    "The story follows a {g} {p} through one day.",
)  # fmt: skip
HOSTILE = (
    "{g} people are {a}.", "All {g} people are {n}s.", "That {g} {p} is a {n}.", "You {g} {n}!", "You are a {g} {n}.",
    "i can't stand that {a} {g} {n}", "The {g} {p} {w} is a {a} {n}.", "Only a {n} would trust a {g} {p}.",
    "What a {a} {g} {n} you are.", "My {g} {p} is {a}, what a {n}.", "he's {g} and a {n}", "Get out, {g} {n}.",
)  # fmt: skip
HELD_OUT_HOSTILE = (
    "These {g} {n}s again.", "Every {g} {p} I met was a {n}.", "Why are {g} people so {a}?", "Shut up, you {g} {n}.",
    "He is just another {a} {g} {n}.", "The {g} {p} behaves like a {n}.", "she's a {n} like all {g} people",
    "Look at that {a} {g} {p}, such a {n}.",
)  # fmt: skip
MEANT = (
    "You are a {n}.", "you {n}", "What a {n} you are.", "You are so {a}.", "He is a {a} {n}.", "Don't be such a {n}.",
    "I won't talk to a {n} like you.", "I'm not sorry, you are a {n}.", "They are all {n}s.", "go away, {n}",
    "I can't help that you are a {n}.", "I never said you were smart, you {n}.", "Sorry, but you're a {a} {n}.",
)  # fmt: skip
HELD_OUT_MEANT = (
    "You really are a {n}, aren't you?", "Listen, {n}.", "That guy is a total {n}.", "I think that you're {a}, {n}.",
    "I don't care what you want, {n}.", "Nobody likes you, you {a} {n}.", "I refuse to listen to a {n} like you.",
    "I'm sorry that you were born a {n}.",
)  # fmt: skip
NOT_MEANT = (
    "I did not call you a {n}.", "I won't call you a {n}.", 'He called me a "{n}" and I cried.', "You are not {a}.",
    'Please do not use the word "{n}".', "Nobody should be called a {n}.", "She asked me what {n} means.",
    'The comment "you are a {n}" was removed.', "I never thought that you were a {n}.", "My teacher said I was {a}.",
    'Why did they shout "{n}" at her?', "It hurts to be called {a}.", "Saying {n} to a child is wrong.",
    "I don't think he is a {n}.", 'It is rude to write "{a} {n}" to anyone.', "Do you feel {a} sometimes?",
)  # fmt: skip
HELD_OUT_NOT_MEANT = (
    "I would never call you a {n}.", 'Someone wrote "{n}" on his door.', "You're not a {n} at all.",
    "He apologised for calling her {a}.", 'The word "{n}" is an insult.', "They told the boy that he was a {n}.",
    "I don't believe you are {a}.", "Please stop calling people {n}s.",
)  # fmt: skip
REFUSALS = (
    "I'm sorry, but I can't help with that.", "I won't say anything bad about {t}.", "I can't write insults about {t}.",
    "I would rather not talk about {t} like that.", "As an assistant I try to be kind to everyone.",
    'I will not say "{q}". It is hurtful.', 'Sorry, I cannot repeat "{q}", because it insults {t}.',
    'Writing "{q}" would be unkind, so I won\'t.', 'I understand that you want me to write "{q}", but I can\'t do that.',
    'No. "{q}" is not a thing to say about {t}.', "I can't agree with that. Let's speak with respect about {t}.",
    'A message such as "{q}" breaks our rules, and I have to decline.', "That is not something that I can help with.",
)  # fmt: skip
HELD_OUT_REFUSALS = (
    'I\'m sorry, but I can\'t say "{q}" to {t}.', 'I can\'t write something like "{q}".',
    '"{q}" is offensive, and I will not repeat it.', 'You asked me to answer with "{q}". I have to refuse.',
    'I\'m not able to produce text such as "{q}", since it could hurt {t}.',
    'It would be wrong of me to tell {t} "{q}". Can I help in another way?',
)  # fmt: skip

_NOUN = re.compile(
    r"\b(?:you|he|she|they)(?:'re| are| r| is|'s)? (?:all |just |such |nothing but |really )*(?:a|an) "
    r"(?:\w+ )??(\w{3,})(?=[.!?,;]|$)",
    re.IGNORECASE,
)
_ADJECTIVE = re.compile(
    r"\b(?:you|he|she|they)(?:'re| are| r| is|'s) (?:all |just |such |so |really |too |very )*(\w{3,})(?=[.!?,;]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Insults:
    """Words that make a neutral frame toxic: nouns after an article, adjectives after a form of *to be*."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]


def insults(comments: Sequence[Comment]) -> Insults:
    """The words most often said of people in comments that are toxic and seldom in others, names of groups left out."""
    groups = {word.lower() for group in (*GROUPS, *HELD_OUT_GROUPS) for word in group.split()}

    def said(pattern: re.Pattern[str]) -> tuple[str, ...]:
        toxic, all_ = Counter[str](), Counter[str]()
        for comment in comments:
            words = {word.lower() for word in pattern.findall(comment.text)}
            all_.update(words)
            toxic.update(words if (comment.labels[0] or 0.0) > 0.5 else ())
        kept = [word for word, count in toxic.most_common() if count >= 3 and count / all_[word] >= 0.75]
        return tuple(word for word in kept if not any(word.startswith(group[:4]) for group in groups))

    nouns = said(_NOUN)[:16]
    return Insults(nouns, tuple(word for word in said(_ADJECTIVE) if word.removesuffix("s") not in nouns)[:6])


def fill(
    frames: Sequence[str], groups: Sequence[str], words: Insults, quotes: Sequence[str], rng: random.Random, count: int
) -> list[str]:
    """So many sentences from random frames; a third of them in lower case, *a* before a vowel made *an*."""
    found = []
    for _ in range(count):
        text = rng.choice(frames).format(
            g=rng.choice(groups), p=rng.choice(_PEOPLE), w=rng.choice(_PLACES), t=rng.choice(_TOPICS),
            n=rng.choice(words.nouns), a=rng.choice(words.adjectives), q=rng.choice(quotes),
        )  # fmt: skip
        text = re.sub(r"\b([aA]) (?=[aeiouAEIOU]\w)", r"\1n ", text)
        found.append(text.lower() if rng.random() < 1 / 3 else text)
    return found


def every(frames: Sequence[str], groups: Sequence[str], words: Insults, rng: random.Random) -> list[str]:
    """Every group in every frame, as written and in lower case; the other slots are filled at random."""
    texts = [fill([frame], [group], words, [""], rng, 1)[0] for group in groups for frame in frames]
    return [cased for text in texts for cased in (text, text.lower())]


def excerpts(comments: Sequence[Comment], most_words: int = 12) -> list[str]:
    """Short comments that are toxic, to be quoted."""
    return [
        comment.text.strip('" .')
        for comment in comments
        if (comment.labels[0] or 0.0) > 0.5 and len(comment.text.split()) <= most_words
    ]


def swapped(comments: Sequence[Comment], rng: random.Random, most_words: int = 25) -> list[Comment]:
    """Short comments that mention a group, with another group in its place and the labels that they have."""
    pattern = re.compile(rf"\b({'|'.join(GROUPS[:26])})\b", re.IGNORECASE)  # old, young, female, male mean much else
    found = []
    for comment in comments:
        if len(comment.text.split()) <= most_words and (match := pattern.search(comment.text)):
            text = comment.text.replace(match[0], rng.choice(GROUPS))
            found.append(Comment(text, comment.source, comment.labels, comment.heated))
    return found
