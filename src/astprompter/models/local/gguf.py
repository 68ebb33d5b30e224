"""Models in GGUF, the format of llama.cpp: ``FILE.gguf``, or ``NAME#FILE.gguf`` for a file of a folder or hub model.

transformers reads them and unpacks their blocks, so that a model computes in the number format that was asked for.
What it would skip in silence is refused here, and what it leaves of the format in a loaded model is taken out: from
there on it saves, trains and hashes like any other.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...base.errors import UserError

SUFFIX = ".gguf"
SERVE = "serve it (llama-server -m FILE, then defender.path=openai:NAME), or name the model that it was made from"
_ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def parts_of(path: str) -> tuple[str, str | None]:
    """Folder or hub name of a model, and its GGUF file; ``None`` for a model in safetensors."""
    name, mark, file = path.partition("#")
    if mark and file.endswith(SUFFIX):
        return name, file
    if path.endswith(SUFFIX):
        return str(Path(path).parent), Path(path).name
    return path, None


def file_options(file: str | None) -> dict[str, Any]:
    """What the loaders of transformers take so that they read the file.

    Raises:
        UserError: The package that reads it is missing.
    """
    if file is None:
        return {}
    if not all(find_spec(package) for package in ("accelerate", "gguf")):
        raise UserError(f"'{file}' is in GGUF, which needs accelerate and gguf: pip install 'astprompter[gguf]'")
    return {"gguf_file": file}


def weight_options(file: str | None) -> dict[str, Any]:
    """What the loader of weights takes besides: all blocks are unpacked, with versions that could keep them too."""
    import transformers

    chosen = getattr(transformers, "GgufConfig", None)  # without it, all versions unpack
    return {"quantization_config": chosen(dequantize=True)} if file and chosen else {}


def advice(path: Path) -> str:
    """What to do about a file that cannot be loaded: none helps but another copy where the file itself is not whole."""
    from gguf import GGUFReader

    try:
        if path.is_file():
            GGUFReader(str(path))
    except Exception:  # whatever the reader stumbles over, no other program reads the file either
        return "the file is cut short or no GGUF; copy or download it again"
    return SERVE


def ends_of(path: str, name: str, file: str, revision: str | None) -> list[int]:
    """Ids of the tokens that end a text or a turn, as the file tells them.

    Raises:
        UserError: The file scales positions in a way that transformers does not read.
    """
    from gguf import GGUFReader
    from transformers.utils.hub import cached_file

    reader = GGUFReader(str(cached_file(name, file, revision=revision)))
    scaled = [
        key for key, field in reader.fields.items() if key.endswith("rope.scaling.type") and field.contents() != "none"
    ]
    scaled += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    if scaled:
        raise UserError(
            f"'{path}' scales its positions ({', '.join(scaled)}), which transformers does not read from GGUF; {SERVE}"
        )
    found = (reader.fields[key].contents() for key in _ENDS if key in reader.fields)
    return list(dict.fromkeys(int(value) for value in found))


def made_plain(model: Any, ends: list[int]) -> Any:
    """The model without what the format left in it, its generation ended by ``ends``."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    for config in (model.config, model.config.get_text_config(decoder=True)):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    if ends:
        model.generation_config.eos_token_id = ends
    return model
