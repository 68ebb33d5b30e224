"""Settings: validated, with presets that say what differs, and ``key=value`` overrides.

``astprompter train --print-config`` shows them all with their help texts.
"""

from .describe import known_keys, to_yaml
from .loading import changed, dotted, load_preset, load_settings, merge, nested, preset_names, settings_from
from .settings import (
    AdversarySettings,
    EvaluationSettings,
    ModelSettings,
    NoveltySettings,
    RemoteSettings,
    RewardSettings,
    RolloutSettings,
    SamplingSettings,
    ScorerSettings,
    ServerSettings,
    Settings,
    TrainingSettings,
)
