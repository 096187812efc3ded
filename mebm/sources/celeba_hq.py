"""CelebA-HQ: 30,000 faces, from a folder of pictures that the user has placed by hand."""

from mebm.sources import About, Found, Parts, Wanted, folder_of
from mebm.sources.reading.pictures import RECIPE_VERSION, RESAMPLING, chunks_of, listing

ABOUT = About(
    recipe="CelebA-HQ pictures of 1024, 256 or 128 pixels from a folder, without labels. "
    f"{RESAMPLING[0].upper()}{RESAMPLING[1:]}.",
    licence="CC BY-NC 4.0 (CelebA-HQ), CelebA's agreement: non-commercial research",
    channels=3,
    counts={"train": 30_000},
    classes=0,
    title="CelebA-HQ 128",
    from_folder=True,
    recipe_version=RECIPE_VERSION,
)
_SIDES = (1024, 256, 128)  # of the published pictures


def read(wanted: Wanted) -> Parts:
    """Pictures in the order of their names; subfolders of this set are not classes."""
    root, found = folder_of(wanted), Found()
    pairs = [(path, None) for path, _ in listing(root, found)[0]]
    return Parts(chunks_of(pairs, wanted, found, _SIDES), origin=[str(root)], found=found)
