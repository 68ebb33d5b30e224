"""The public names and where they are: the one list, for type checkers and for ``__init__.py``."""

from .base.errors import RunError as RunError
from .base.errors import UserError as UserError
from .base.progress import Progress as Progress
from .base.protocols import Scorer as Scorer
from .base.protocols import Session as Session
from .base.protocols import Speaker as Speaker
from .base.records import ElicitingText as ElicitingText
from .base.records import Node as Node
from .base.records import PreferencePair as PreferencePair
from .base.records import Prefix as Prefix
from .base.records import RolloutTree as RolloutTree
from .base.records import Speech as Speech
from .base.records import Trajectory as Trajectory
from .base.records import Turn as Turn
from .config.loading import load_settings as load_settings
from .config.settings import Settings as Settings
from .evaluation.evaluate import Evaluation as Evaluation
from .runs.run import Run as Run
from .workflows.collect import grow_trees as grow_trees
from .workflows.collect import make_pairs as make_pairs
from .workflows.evaluate import evaluate as evaluate
from .workflows.harden import harden as harden
from .workflows.objects import load_eliciting as load_eliciting
from .workflows.objects import load_model as load_model
from .workflows.objects import load_prefixes as load_prefixes
from .workflows.objects import load_scorer as load_scorer
from .workflows.probability import failure_probability as failure_probability
from .workflows.repair_rounds import harden_rounds as harden_rounds
from .workflows.train import sft as sft
from .workflows.train import train as train

__version__: str
