"""Reading a .gguf file into plain dense weights, once: see `gguf_cache` for where they are kept."""

import json
import struct
from pathlib import Path
from typing import Any

import torch

from inscape.core.errors import FileError, InscapeError, ModelError
from inscape.core.extra import package
from inscape.core.progress import Progress, tell


def check_header(path: Path) -> None:
    """Raises FileError when the file is not GGUF at all."""
    with path.open("rb") as file:
        start = file.read(24)
    if start[:4] != b"GGUF":
        raise FileError(
            f"{str(path)!r} is not a GGUF file: it starts with {start[:4]!r} where b'GGUF' belongs.\n"
            "  give a model in GGUF format, or open the Hugging Face folder it was made from."
        )
    if len(start) < 24:
        raise FileError(f"{str(path)!r} is cut off: {len(start)} bytes.\n  copy or download it again.")
    version, tensors, _ = struct.unpack("<IQQ", start[4:])
    if version not in (2, 3) or tensors == 0:
        raise FileError(
            f"{str(path)!r} is GGUF of version {version} with {tensors} tensors; only versions 2 and 3 with weights\n"
            "  can be read. Convert the model again with a current llama.cpp."
        )


def dequantise(path: Path, folder: Path, progress: Progress = None) -> tuple[str, ...]:
    """Write a GGUF model into `folder` as an ordinary fp32 Hugging Face folder, tokenizer included; notes on it.

    transformers reads the file; what it leaves wrong is mended: a `quantization_config` that no longer holds and
    missing `architectures`. The dense logits are bit-equal to those of the GGUF load.
    Cost: about a minute and 3.3 GB for a vocabulary of 262,144 (reading its lists is most of both).
    Raises: FileError for damaged files, ModelError for architectures transformers cannot read, MissingExtraError.
    """
    check_header(path)
    transformers = package("transformers", "hf", "reading a .gguf file")
    package("gguf", "demo", "reading a .gguf file")
    where: dict[str, Any] = {"gguf_file": path.name}
    try:
        tell(progress, f"reading {path.name}", 0.0)
        config = transformers.AutoConfig.from_pretrained(path.parent, **where)
        tell(progress, f"dequantising {path.name} (once)", 0.25)
        module, info = _model_class(transformers, config).from_pretrained(
            path.parent, config=config, dtype=torch.float32, output_loading_info=True, **where, **_dense(transformers)
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise FileError(
                f"{path.name} lacks {len(missing)} of the weights of {type(module).__name__}, first {missing[0]}.\n"
                "  they would be random numbers, so the file is not opened; get a whole one."
            )
        tell(progress, f"writing {path.name} as safetensors", 0.65)
        module.hf_quantizer = None  # or save_pretrained refuses: the weights are dense now, and the quantizer is done
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
        module.config.architectures = [type(module).__name__]
        module.save_pretrained(folder)
        del module
    except Exception as error:
        if _machine(error) or isinstance(error, InscapeError):
            raise
        raise _explained(path, error) from error
    tell(progress, f"converting the tokenizer of {path.name}", 0.7)
    try:
        transformers.AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(folder)
    except Exception as error:  # files without a tokenizer, or with one transformers cannot convert, still hold a model
        if _machine(error):
            raise
        return (f"the file's tokenizer could not be converted ({type(error).__name__}: {_line(error)})",)
    _mend_tokenizer(folder / "tokenizer_config.json")
    return ()


def _model_class(transformers: Any, config: Any) -> Any:
    order = (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM)
    return next((auto for auto in order if type(config) in auto._model_mapping), transformers.AutoModel)


def _dense(transformers: Any) -> dict[str, Any]:
    """Newer transformers can keep the blocks packed; ask it not to."""
    settings = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": settings(dequantize=True)} if settings else {}


def _mend_tokenizer(path: Path) -> None:
    """Take out what only describes how this load went."""
    if path.is_file():
        said = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in said.items() if key not in ("is_local", "local_files_only")}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _machine(error: Exception) -> bool:
    """Whether an error is the machine's (memory, disk) and not the file's."""
    return isinstance(error, MemoryError) or bool(getattr(error, "errno", None)) or "No space left" in str(error)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]


def _explained(path: Path, error: Exception) -> Exception:
    line = _line(error)
    if "not supported" in str(error) or "Unrecognized" in str(error):
        return ModelError(
            f"the architecture of {path.name} cannot be read: {line}\n"
            "  a newer transformers may; or open the Hugging Face folder it was made from."
        )
    return FileError(
        f"{path.name} cannot be read as GGUF: {type(error).__name__}: {line}\n"
        "  it is most likely cut off or damaged: compare its size with the original and copy it again."
    )
