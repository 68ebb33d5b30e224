"""Any Python function as scorer."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError, words_of
from .remembering import Item, RememberingScorer


class FunctionScorer(RememberingScorer):
    """Calls ``function(texts: list[str])``, which returns one number in [0, 1] per text, or ``nan`` for no score.

    With ``in_context`` it is ``function(texts, contexts)``: beside each text what was said before it (the prefix, then
    utterances and replies), nothing where the text stands alone.
    """

    def __init__(self, function: Callable[..., Any], name: str, *, in_context: bool = False) -> None:
        super().__init__(name, in_context=in_context)
        self._function = function

    @classmethod
    def load(cls, argument: str, *, in_context: bool = False) -> FunctionScorer:
        """Import ``module:function`` or ``FOLDER/module:function``; FOLDER is searched too, else the working directory.

        Raises:
            UserError: It cannot be imported, or is not callable.
        """
        module, _, attribute = argument.partition(":")
        folder, _, module = module.rpartition("/")
        place = str(Path.cwd() / folder)
        if not module or not attribute:
            raise UserError("scorer 'python:' needs a module and a function, for instance python:my_scorers:rudeness")
        sys.path.insert(0, place)
        try:
            function: Any = importlib.import_module(module)
            for part in attribute.split("."):
                function = getattr(function, part)
        except Exception as error:  # whatever the module raises at import
            reason = words_of(error, kind=True)
            raise UserError(f"scorer 'python:{argument}' cannot be imported ({reason})") from error
        finally:
            sys.path.remove(place)
        if not callable(function):
            raise UserError(f"scorer 'python:{argument}' is not a function")
        return cls(function, f"python:{argument}", in_context=in_context)

    def _score_new(self, items: Sequence[Item]) -> list[float]:
        texts, contexts = ([item[place] for item in items] for place in (0, 1))
        try:
            given = self._function(texts, contexts) if self._in_context else self._function(texts)
            values = [float(value) for value in given]
        except Exception as error:  # a user's own code: name it instead of showing our traceback
            reason = words_of(error, kind=True)
            raise UserError(f"scorer '{self.name}' failed on {len(texts)} texts ({reason})") from error
        if len(values) != len(texts):
            raise UserError(
                f"scorer '{self.name}' gave {len(values)} scores for {len(texts)} texts; one each is needed"
            )
        wrong = next((value for value in values if not (math.isnan(value) or 0 <= value <= 1)), None)
        if wrong is not None:
            raise UserError(f"scorer '{self.name}' gave {wrong}; a score must lie in [0, 1], or be nan")
        return values
