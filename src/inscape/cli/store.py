"""`inscape store`: look at a folder of recorded activations, check it, take out what is damaged."""

from pathlib import Path

from inscape.cli.console import Debug, Json, print_json, progress


def show(path: Path, /, *, as_json: Json = False, debug: Debug = False) -> None:
    """Say what a store holds, and how well its cost was predicted."""
    import inscape as ins
    from inscape.store.outcome import outcomes

    store = ins.Store(path)
    told = outcomes(store.path)
    if as_json:
        about = store.about.model_dump(mode="json")
        print_json(
            {"path": str(path), "rows": len(store), "complete": store.is_complete, "about": about, "outcomes": told}
        )
        return
    print(store)
    for said in told:
        measured, predicted = said["measured"], said["predicted"]
        beside = f" (predicted {predicted['seconds']:,.0f} s)" if predicted else ""
        print(f"  a writer took {measured['seconds']:,.0f} s{beside} for {measured['rows']:,} rows")


def verify(path: Path, /, *, quick: bool = False, as_json: Json = False, debug: Debug = False) -> None:
    """Compare every shard with what its writer listed. Changes nothing; exit code 1 when something is damaged.

    Parameters
    ----------
    quick:
        Sizes and headers only, no checksums.
    """
    from inscape.core.errors import FileError
    from inscape.store.check import verify as check

    with progress("checking", as_json) as tell:
        found = check(path, contents=not quick, progress=tell)
    print_json(found) if as_json else print(found)
    if not found.is_sound:
        raise FileError(f"{path} is damaged.\n  inscape store repair {path} takes the damaged parts out.")


def repair(path: Path, /, *, as_json: Json = False, debug: Debug = False) -> None:
    """Take damaged and unlisted shards out of a store, when nobody is writing to it; record again to fill the gaps."""
    from inscape.store.check import repair as mend

    with progress("checking", as_json) as tell:
        found = mend(path, progress=tell)
    print_json(found) if as_json else print(f"{found}\nwhat was bad, cut or not listed is taken out.")
