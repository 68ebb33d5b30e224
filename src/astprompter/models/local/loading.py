"""Models and tokenizers from folders and the hub; what cannot be loaded is refused with its reason and what to do.

Weights come from safetensors or GGUF (:mod:`.gguf`), every one of them, and no code of a repository is run. An adapter
folder (PEFT) is loaded with the base that it names and merged into it: a model like any other from there on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...base.errors import UserError
from ...base.strict_json import read_object
from ...data.download import reaches
from .gguf import advice, ends_of, file_options, made_plain, parts_of, weight_options

_CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('{0}').save_pretrained('{1}-safetensors') for kind in (M, T)]\""
)
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "*.spm", "merges.txt")
"""Files of which a folder with a tokenizer has one at least."""


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: The device name is unknown or not present.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' is not usable here ({_first_line(error)}); try device=cpu") from None


def load_model(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    classifier: bool = False,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Load a causal LM, or a sequence classifier; in evaluation mode.

    Args:
        path: Folder, GGUF file, or name on the hub.
        revision: On the hub.
        dtype: Of the weights.
        device: Where they go.
        classifier: Whether it is a sequence classifier.
        check: Told the model's config before the weights are read, to refuse it early.

    Raises:
        UserError: The model cannot be found or loaded, lacks weights or is of another kind; the message names it and
            says why.
    """
    place = resolve_device(device)
    base = _base_of(path, revision, "sequence classifier" if classifier else "model")
    if base is not None and classifier:
        raise UserError(
            f"'{path}' is an adapter for the model '{base[0]}', and holds no labels; merge it into its base, with the "
            "labels in the config, and name what that gives (peft: merge_and_unload, then save_pretrained)"
        )
    if base is None:
        return _load(path, revision, dtype, classifier, check).to(place).eval()
    with _as_base_of(path, base[0]):
        model = _load(*base, dtype, classifier, check)
    return _merged(model.to(place), path, revision).eval()


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """Load the tokenizer that belongs to a model; of an adapter folder without one, its base's.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    folder, base = Path(path), _base_of(path, revision)
    has_model = base is not None or (folder / "config.json").is_file()
    if has_model and folder.is_dir() and not any(file for pattern in _TOKENIZERS for file in folder.glob(pattern)):
        if base is None:
            raise UserError(
                f"model folder '{path}' has no tokenizer; copy the tokenizer's files (tokenizer.json, "
                "tokenizer_config.json) of the model that it was made from into it"
            )
        with _as_base_of(path, base[0]):
            return _tokenizer(*base)
    return _tokenizer(path, revision)


def _tokenizer(path: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    name, file = parts_of(path)
    with explained(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False, **file_options(file))


def _load(path: str, revision: str | None, dtype: str, classifier: bool, check: Callable[[Any], object] | None) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    what = "sequence classifier" if classifier else "causal language model"
    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    name, file = parts_of(path)
    if file and classifier:
        raise UserError(f"classifier '{path}' is in GGUF, which holds language models; name one in safetensors")
    with explained(path, what):
        options = {"revision": revision, "trust_remote_code": False, **file_options(file)}
        config = AutoConfig.from_pretrained(name, **options)
        if not classifier:
            _check_kind(path, config)
        if check is not None:
            check(config)
        ends = ends_of(path, name, file, revision) if file else []
        model, loading = kind.from_pretrained(
            name, config=config if file else None, dtype=getattr(torch, dtype), use_safetensors=True,
            output_loading_info=True, **options, **weight_options(file),
        )  # fmt: skip
    if file:
        made_plain(model, ends)
    if loading["missing_keys"]:
        raise UserError(f"'{path}' is not a trained {what}: it has no weights for '{min(loading['missing_keys'])}'")
    return model


def _check_kind(path: str, config: Any) -> None:
    """Refuse what could be loaded as a causal language model and is none.

    Raises:
        UserError: It is another kind of model.
    """
    named = ", ".join(getattr(config, "architectures", None) or [config.model_type])
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder model, whose decoder reads another text than the one that it goes on with"
    elif "MaskedLM" in named:
        kind = "an encoder: what it makes of a token depends on the tokens after it"
    elif "Classification" in named or "QuestionAnswering" in named or "MultipleChoice" in named:
        kind = "a classifier"
    else:
        return
    raise UserError(f"'{path}' ({named}) is {kind}; name a causal language model")


def _base_of(path: str, revision: str | None, what: str = "model") -> tuple[str, str | None] | None:
    """Name and revision of the model that an adapter was made for; ``None`` if this is a model by itself."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if parts_of(path)[1]:
        return None
    with explained(path, what):
        found = find_adapter_config_file(path, revision=revision)
        if found is None:
            return None
        values = read_object(Path(found))
    if not isinstance(values.get("base_model_name_or_path"), str):
        raise UserError(f"'{path}' is an adapter, and its adapter_config.json names no base_model_name_or_path")
    return values["base_model_name_or_path"], values.get("revision")


def _merged(model: Any, path: str, revision: str | None) -> Any:
    """The model with an adapter's weights added to its own."""
    try:
        from peft import PeftModel
        from transformers.utils.hub import cached_file
    except ImportError:
        raise UserError(f"'{path}' is an adapter, which needs peft: pip install 'astprompter[lora]'") from None
    with explained(path, "adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of the library
        warnings.filterwarnings("error", message=".*missing adapter keys")
        cached_file(path, "adapter_model.safetensors", revision=revision)  # else a pickle would be read
        tuned: Any = PeftModel.from_pretrained(model, path, revision=revision)
        if not hasattr(tuned, "merge_and_unload"):
            raise UserError(f"adapter '{path}' is of a kind that cannot be merged into its base (merge_and_unload)")
        return tuned.merge_and_unload(safe_merge=True).requires_grad_(True)


@contextmanager
def _as_base_of(path: str, base: str) -> Iterator[None]:
    """Say of what cannot be loaded that it is the base of an adapter, and whether it is here at all."""
    try:
        yield
    except UserError as error:
        how = "cannot be loaded" if Path(base).is_dir() or _cached(base).is_dir() else "is missing on this machine"
        raise UserError(
            f"'{path}' is an adapter for the model '{base}', which {how}: {error}. Where its base is stands in "
            "adapter_config.json, as base_model_name_or_path"
        ) from None


@contextmanager
def explained(path: str, what: str) -> Iterator[None]:
    """Turn the loaders' many exceptions into one line that names the model."""
    check_folder(path)
    name, file = parts_of(path)
    _check_hub(name, what)
    try:
        yield
    except (torch.cuda.OutOfMemoryError, UserError):
        raise
    except Exception as error:
        why = _first_line(error)
        if "no file named model.safetensors" in why or "cannot be loaded with `safetensors`" in why:
            why = f"its weights are not in safetensors; convert them: {_CONVERT.format(path, Path(path).name)}"
        elif type(error).__name__ == "SafetensorError" and (damaged := _damaged(name)):
            why = f"'{damaged}' is cut short or damaged ({why}); copy or download that file again"
        raise UserError(
            f"cannot load {what} '{path}': {why}{f'; {advice(Path(name) / file)}' if file else ''}"
        ) from error


def _damaged(path: str) -> Path | None:
    """The first file of a model's weights that is not whole."""
    from safetensors import SafetensorError, safe_open

    for file in sorted((Path(path) if Path(path).is_dir() else _cached(path)).rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file
    return None


def check_folder(path: str) -> None:
    """Refuse what looks like a local path and is none, before a hub is asked for it.

    Raises:
        UserError: There is no such folder or file, or a folder of GGUF files is named without the file.
    """
    name, file = parts_of(path)
    folder = Path(name)
    if file and (folder.is_dir() or "#" not in path) and not (folder / file).is_file():
        raise UserError(f"GGUF file '{folder / file}' does not exist")
    held = (
        sorted(held.name for held in folder.iterdir() if held.suffix in {".gguf", ".safetensors"})
        if folder.is_dir()
        else []
    )
    if file is None and held and all(each.endswith(".gguf") for each in held):
        raise UserError(f"'{path}' holds weights in GGUF; name the file: {folder / held[0]}")
    if (path.startswith((".", "/", "~")) or "\\" in path) and not folder.is_dir():
        raise UserError(f"model folder '{name}' does not exist")


def hub_constants() -> Any:
    """Where the hub is, where its files are kept, and whether it may be asked."""
    from transformers.utils import hub

    return hub.constants  # type: ignore[attr-defined]


def _cached(path: str) -> Path:
    """Where the hub's files of a model are kept, if there are any."""
    return Path(hub_constants().HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"


def _check_hub(path: str, what: str) -> None:
    """Refuse a model that is neither here nor to be had, without the minutes in which the loader tries again and again.

    Raises:
        UserError: It is no folder, nothing of it is in the hub's cache, and the hub is not to be asked or not reached.
    """
    constants = hub_constants()
    if Path(path).is_dir() or _cached(path).is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set"
    elif not reaches(constants.ENDPOINT):
        why = f"{constants.ENDPOINT} cannot be reached"
    else:
        return
    raise UserError(
        f"cannot load {what} '{path}': it is not on this machine, and {why}; name a folder in its place (for a scorer: "
        "scorer.spec=hf:./my-classifier, or scorer.spec=embedded), or fetch it once where there is a network: hf "
        f"download {path}"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
