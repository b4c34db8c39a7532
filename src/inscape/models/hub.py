"""A name that may be a model on the Hugging Face hub: is it there, and if the hub is out of reach, is it cached?"""

from dataclasses import dataclass
from pathlib import Path

from inscape.core.errors import ModelError
from inscape.core.extra import package

PATIENCE_S = 5.0  # one request this long decides whether the hub can be reached; transformers would retry for longer


@dataclass(frozen=True)
class Found:
    """Where a hub model is: `place` is its id (then `revision` is fixed) or, offline, its folder in the hub's cache."""

    place: str
    files: tuple[str, ...]
    revision: str | None = None
    notes: tuple[str, ...] = ()


def find(name: str, demos: tuple[str, ...]) -> Found:
    """Ask the hub once for a model; when it does not answer, look in the hub's cache on this machine.

    Cost: one request, at most about `PATIENCE_S` seconds. Raises: ModelError with what was tried.
    """
    package("transformers", "hf", f"opening {name!r}")
    hub = package("huggingface_hub", "hf", f"opening {name!r}")
    known = f"  models that come with inscape[demo]: {', '.join(demos)}."
    try:
        info = hub.model_info(name, timeout=PATIENCE_S)
        return Found(name, tuple(f.rfilename for f in info.siblings or ()), info.sha)
    except hub.errors.HFValidationError as error:
        raise ModelError(
            f"{name!r} is no model: there is no folder or file of that name here, and it is no valid hub id.\n{known}"
        ) from error
    except hub.errors.GatedRepoError as error:
        raise ModelError(
            f"{name!r} is on the hub behind an agreement that this account has not accepted.\n"
            "  accept it on the model's page, then log in (`hf auth login`)."
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name!r} is no model: there is no folder or file of that name here, and none on the hub\n"
            f"  (or it is private).\n{known}"
        ) from error
    except Exception as error:  # every client library has its own family of network errors
        cached = hub.try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            folder = Path(cached).parent
            note = f"the hub was not reachable ({type(error).__name__}); opened the copy in its cache"
            return Found(str(folder), tuple(p.name for p in folder.iterdir()), None, (note,))
        said = (str(error).splitlines() or ["no message"])[0][:200]
        raise ModelError(
            f"{name!r} cannot be opened: there is no folder or file of that name here, the hub was not reachable\n"
            f"  ({type(error).__name__}: {said}), and its cache has no copy.\n{known}"
        ) from error
