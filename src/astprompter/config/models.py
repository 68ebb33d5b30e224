"""Settings of models, their servers, and scorers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    """What all sections have in common: unknown names are refused, nothing changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def changed(self, **changes: Any) -> Self:
        """A validated copy with other values."""
        return type(self).model_validate({**self.model_dump(by_alias=True), **changes})


class ModelSettings(Section):
    """A local causal language model."""

    path: str = "embedded"
    """hub name, local folder, or 'embedded'"""
    revision: str | None = None
    """hub branch, tag or commit"""
    dtype: DType = "float32"
    """number format of the weights"""
    device: str = "auto"
    """'auto', 'cpu', 'cuda', 'cuda:1', …"""
    autocast: Literal["none", "bfloat16"] = "none"
    """number format of matrix products; 'bfloat16' is faster where the processor has it"""
    chat: Literal["off", "on", "auto"] = "off"
    """'on' uses its chat template, 'auto' does where it has one; 'off' is plain text"""


class AdversarySettings(ModelSettings):
    """The policy π_θ."""

    lora_rank: int = Field(0, ge=0)
    """tune adapters of this rank (LoRA, needs peft); 0 tunes all weights"""
    lora_alpha: int = Field(16, ge=1)
    """the adapters' scale is this over their rank"""


class DefenderSettings(ModelSettings):
    """The frozen model under test, local or served."""

    path: str = "embedded"
    """as adversary.path, or 'openai:NAME' for a served model; see remote.*"""


class LikelihoodSettings(ModelSettings):
    """A local model whose likelihood stands in for a defender that tells none."""

    path: str = ""
    """hub name or local folder; empty refuses a defender without likelihood"""


class ServerSettings(Section):
    """How a server with an OpenAI-compatible API is reached."""

    base_url: str = "http://localhost:8000/v1"
    """address of the server, /v1 included"""
    key_env: str = ""
    """NAME of the environment variable that holds the key, never the key itself"""
    concurrency: int = Field(8, ge=1)
    """requests under way at once, per process"""
    timeout: float = Field(60.0, gt=0)
    """seconds that one try may take"""
    retries: int = Field(4, ge=0)
    """further tries of a request that may yet succeed"""
    error_budget: int = Field(20, ge=0, le=100)
    """of the last 100 requests, how many may fail for good"""


class RemoteSettings(ServerSettings):
    """A served defender."""

    api: Literal["completions", "chat"] = "completions"
    """plain text, or user and assistant messages"""
    likelihood: Literal["auto", "server", "local"] = "auto"
    """prompt log-probs of the server, the likelihood.path model, or the first that can be trusted"""
    reasoning_tokens: int = Field(0, ge=0)
    """tokens that a reasoning model may spend before its reply, beside rollout.max_new_tokens"""


class ScorerSettings(Section):
    """The toxicity scorer R_φ."""

    spec: str = "embedded"
    """'embedded', 'detoxify:unbiased', 'hf:MODEL', 'judge:MODEL', …; see docs/integrations.md"""
    label: str = "toxicity"
    """label to score, by name; #LABEL at the end of the spec overrides it"""
    activation: Literal["auto", "sigmoid", "softmax"] = "auto"
    """'auto' follows the model's problem type"""
    revision: str | None = None
    """hub branch, tag or commit"""
    device: str = "auto"
    """where the classifier runs"""
    batch_size: int = Field(64, ge=1)
    """texts per forward pass"""
    dtype: DType = "float32"
    """number format of a judge's weights"""
    safe_token: str = "safe"  # noqa: S105
    """what a judge answers for harmless text"""
    unsafe_token: str = "unsafe"  # noqa: S105
    """what a judge answers for harmful text"""
    answer_prefix: str = ""
    """text between a judge's chat template and its answer"""
    instruction: str = ""
    """system message for a judge; none when empty"""
    context: Literal["none", "conversation"] = "none"
    """what a judge or python function sees: the text alone, or the conversation that ends with it"""
    base_url: str = "https://api.openai.com/v1"
    """OpenAI-compatible server of 'openai-…' scorers"""
    key_env: str = ""
    """NAME of the environment variable that holds its key, never the key itself"""
    error_budget: int = Field(5, ge=1)
    """requests in a row that may fail for good before a served scorer counts as down"""

    @property
    def in_context(self) -> bool:
        """Whether the scorer is shown the conversation."""
        return self.context == "conversation"
