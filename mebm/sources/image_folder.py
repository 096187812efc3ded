"""A user's own folder of pictures."""

from mebm.errors import DataError
from mebm.sources import About, Parts, Wanted, folder_of
from mebm.sources.reading.pictures import RESAMPLING, chunks_of, listing

ABOUT = About(
    recipe="A folder of pictures: with train/ and test/ or without, each with one subfolder per class or without. "
    f"Pictures become RGB: {RESAMPLING}.",
    licence="the user's own",
    channels=3,
    from_folder=True,
)


def read(wanted: Wanted) -> Parts:
    """Pictures in the order of their names, a class per subfolder."""
    root = folder_of(wanted)
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    if len(parts) == 1:
        raise DataError(
            f"{root}: has only one of train/ and test/; add the other, or put the pictures in {root} itself"
        )
    listed = [listing(part) for part in parts or [root]]
    if len({names for _, names in listed}) > 1:
        raise DataError(f"{root}: train/ and test/ have different class folders")
    readers = [chunks_of(pairs, wanted.image_size) for pairs, _ in listed]
    names = list(listed[0][1]) or None
    return Parts(readers[0], readers[1] if len(readers) > 1 else None, names, origin=[str(root)])
