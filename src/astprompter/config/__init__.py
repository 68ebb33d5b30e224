"""Settings: validated, with presets that say what differs, and ``key=value`` overrides.

``astprompter train --print-config`` shows them all with their help texts.
"""

from .describe import known_keys, to_yaml
from .loading import changed, dotted, load_preset, load_settings, merge, nested, preset_names, settings_from
from .models import AdversarySettings, ModelSettings, RemoteSettings, ScorerSettings, ServerSettings
from .settings import (
    EvaluationSettings,
    HardenSettings,
    LossSettings,
    NoveltySettings,
    RewardSettings,
    RolloutSettings,
    SamplingSettings,
    Settings,
    TrainingSettings,
)
