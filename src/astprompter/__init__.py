"""astprompter: find likely toxic failures of a language model before its users do.

An implementation of ASTPrompter (arXiv 2407.09447): an adversary language model is tuned online to write *likely*
text after which a frozen defender replies with toxic text. Importing the package loads no heavy library; start with
:mod:`astprompter.cli.app`, :func:`astprompter.workflows.train.new_trainer` and
:func:`astprompter.evaluation.evaluate.evaluate`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("astprompter")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"
