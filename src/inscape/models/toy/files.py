"""Toy nets in files: found, trained on first use, loaded and written."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from torch import nn

from inscape.core.cache import cache_folder, one_builder
from inscape.core.errors import FileError
from inscape.core.progress import Progress
from inscape.models.toy.toy import ABOUT, SHIPPED, Toy


def toy_folder(toy: Toy, progress: Progress = None) -> Path:
    """The folder of a toy: in the package, or in the cache, where it is trained first when it is not there.

    Cost: nothing for a shipped one; minutes for the first opening of another. Raises: FileError when the package
    lacks its files, or the cache cannot be written.
    """
    if toy.shipped:
        folder = SHIPPED / toy.key
        if not (folder / ABOUT).is_file():
            raise FileError(
                f"the files of {toy.name!r} are not in this installation ({str(folder)!r}).\n  install inscape again."
            )
        return folder
    home = cache_folder("toys")
    folder = home / f"{toy.key}-{version('inscape')}"
    if (folder / ABOUT).is_file():
        return folder
    from inscape.dynamics.toys.making import make  # a room above: training, on the first opening only

    try:
        home.mkdir(parents=True, exist_ok=True)
        with one_builder(home / f".{folder.name}.lock", progress):
            if not (folder / ABOUT).is_file():
                scratch = Path(tempfile.mkdtemp(prefix=f".building-{folder.name}-", dir=home))
                try:
                    make(toy, to=scratch / "toy", checkpoint=home / f".{folder.name}.checkpoint", progress=progress)
                    shutil.rmtree(folder, ignore_errors=True)
                    (scratch / "toy").rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{toy.name!r} is trained on first use, and its files cannot be written to {str(home)!r}: {error}.\n"
            "  set INSCAPE_CACHE to a folder that can be written and has room."
        ) from error
    return folder


def load_own(toy: Toy, folder: Path) -> nn.Module:
    """The module of a toy that is no transformers class, with its weights, in eval mode."""
    from safetensors.torch import load_model

    assert toy.build is not None
    module = toy.build()
    load_model(module, folder / "model.safetensors")
    return module.eval()
