"""Making a store's folder, or seeing that the one there is of the very same job: many writers may do so at once."""

import contextlib
from pathlib import Path

from inscape.core.durable import TEMPORARY, disk_errors, written
from inscape.core.errors import FileError
from inscape.store import manifest, samples
from inscape.store.schema import Description, differences, parse_description

DESCRIPTION = "store.json"
FOLDERS = (manifest.FOLDER, manifest.SHARDS, samples.FOLDER)


def claim(folder: Path, about: Description) -> Description:
    """Make the folder, or see that what is there is of the very same; gives what it says of itself.

    Raises FileError with the differences.
    """
    path = folder / DESCRIPTION
    with disk_errors(f"the store {folder}", lambda: "choose a folder that can be written to."):
        if folder.exists() and not path.exists():
            known = (*FOLDERS, DESCRIPTION)  # another writer may have made it since
            strangers = [p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith(TEMPORARY)]
            if not strangers and not path.exists() and any((folder / manifest.FOLDER).glob("[!.]*.jsonl")):
                strangers = ["a manifest without its store.json"]
            if strangers:
                raise FileError(f"{folder} is not empty and no store ({strangers[0]} is there): choose a new folder.")
        for inner in ("", *FOLDERS):
            (folder / inner).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with contextlib.suppress(FileExistsError), written(path) as file:  # another writer may be first
                file.write(about.model_dump_json(indent=1).encode() + b"\n")
    there = parse_description(path)
    different = differences(there, about)
    if different:
        listed = "\n".join(f"  {line}" for line in different)
        is_empty = not any(p.stat().st_size for p in (folder / manifest.FOLDER).glob("[!.]*.jsonl"))
        advice = (
            "nothing is recorded in it yet: delete it to begin anew."
            if is_empty
            else "choose another folder, or ask for what is in this one."
        )
        raise FileError(f"{folder} is a store of something else:\n{listed}\n  {advice}")
    return there


def ended(folder: Path, n_samples: int) -> None:
    """Write how many samples there are, once somebody has seen the end. Raises FileError when another saw another."""
    path = folder / DESCRIPTION
    about = parse_description(path)
    if about.n_samples not in (None, n_samples):
        raise FileError(
            f"{folder} was recorded from {about.n_samples:,} samples, the data end after {n_samples:,}.\n"
            "  give the same data in the same order, or choose another folder."
        )
    if about.n_samples is None:
        whole = about.model_copy(update={"n_samples": n_samples})
        said = "all that is listed is safe; make room and run the same record again."
        with disk_errors(f"the store {folder}", lambda: said), written(path, replace=True) as file:
            file.write(whole.model_dump_json(indent=1).encode() + b"\n")
