"""A user's own folder of pictures."""

from mebm.errors import DataError
from mebm.sources import About, Found, Parts, Wanted, folder_of
from mebm.sources.reading.pictures import RECIPE_VERSION, RESAMPLING, chunks_of, listing, note_outside

ABOUT = About(
    recipe="A folder of pictures: with train/ and test/ or without, each with one subfolder per class or without. "
    f"Pictures become RGB as a viewer shows them: {RESAMPLING}.",
    licence="the user's own",
    channels=3,
    from_folder=True,
    recipe_version=RECIPE_VERSION,
)


def read(wanted: Wanted) -> Parts:
    """Pictures in the order of their names, a class per subfolder."""
    root, found = folder_of(wanted), Found()
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    if len(parts) == 1:
        raise DataError(
            f"{root}: has only one of train/ and test/; add the other, or put the pictures in {root} itself"
        )
    if parts:
        note_outside(root, parts, found)
    listed = [listing(part, found) for part in parts or [root]]
    if len({names for _, names in listed}) > 1:
        raise DataError(f"{root}: train/ and test/ have different class folders")
    readers = [chunks_of(pairs, wanted, found) for pairs, _ in listed]
    names = list(listed[0][1]) or None
    return Parts(readers[0], readers[1] if len(readers) > 1 else None, names, origin=[str(root)], found=found)
