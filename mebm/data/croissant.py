"""A prepared data set described for search engines and loaders: `croissant.json`, in the format Croissant 1.0.

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html. It is made from the manifest alone, so it
says nothing that `prepare` did not record: not who made the images, nor when.
"""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from mebm.data.archives import Manifest
from mebm.files import Record, read_json, require, write_json

NAME = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
TERMS = (
    *("citeAs", "column", "conformsTo", "data", "dataType", "equivalentProperty", "examples", "extract", "field"),
    *("fileProperty", "fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
TYPED = {"data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"}}
TYPED |= {"examples": {"@id": "cr:examples", "@type": "@json"}, "conformsTo": "dct:conformsTo"}
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: TYPED.get(term, f"cr:{term}") for term in TERMS},
}


class _Sums(Record):
    train: str
    test: str


class _Described(Manifest):
    """What a manifest must hold to be described."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    origin: list[str]
    licence: str
    recipe: str
    recipe_version: int
    sha256: _Sums


def write(folder: Path) -> dict[str, Any]:
    """Write `croissant.json` beside the manifest of a prepared data set; returns the manifest.

    Raises DataError where the folder holds no such data set.
    """
    manifest = read_json(folder / "manifest.json", _Described)
    sizes = {part: require(folder / f"{part}.npz").stat().st_size for part in manifest["counts"]}
    write_json(folder / NAME, described(manifest, sizes))
    return manifest


def described(manifest: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """The description of a data set. sizes: bytes of the archive of each part."""
    channels, height, width = manifest["shape"]
    counts, labels = manifest["counts"], manifest["labels"]
    classes = f", in {len(labels)} classes" if labels else ", without labels"
    records = [_array(part, name, what) for part in counts for name, what in _arrays(manifest).items()]
    links = [origin for origin in manifest["origin"] if origin.startswith(("http://", "https://"))]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": manifest["name"],
        "description": f"{counts['train']} images to train on and {counts['test']} held out{classes}; uint8 "
        f"[{channels}, {height}, {width}] each. {manifest['recipe']}",
        "license": manifest["licence"],
        "version": f"{manifest['recipe_version']}.0.0",
        "isBasedOn": manifest["origin"],
        **({"url": links[0]} if links else {}),
        "distribution": [entity for part in counts for entity in _files(manifest, part, sizes[part])],
        "recordSet": [*([_labels(labels)] if labels else []), *records],
    }


def _files(manifest: dict[str, Any], part: str, size: int) -> list[dict[str, Any]]:
    """The archive of a part, an .npz, and the arrays inside it."""
    archive = f"{part}.npz"
    return [
        {
            "@type": "cr:FileObject",
            "@id": archive,
            "name": archive,
            "description": f"NumPy archive (a zip file of .npy files) of the {part} part",
            "contentUrl": archive,
            "contentSize": f"{size} B",
            "encodingFormat": "application/zip",
            "sha256": manifest["sha256"][part],
        },
        *(
            {
                "@type": "cr:FileSet",
                "@id": f"{part}-{name}",
                "name": f"{part}-{name}",
                "description": what,
                "containedIn": {"@id": archive},
                "encodingFormat": "application/octet-stream",
                "includes": f"{name}.npy",
            }
            for name, what in _arrays(manifest).items()
        ),
    ]


def _arrays(manifest: dict[str, Any]) -> dict[str, str]:
    """The arrays of each archive, and what they hold."""
    images = {"images": "images, uint8 [N, C, H, W], in one array"}
    return images | (
        {"labels": "classes of the images in their order, int64 [N], in one array"} if manifest["labels"] else {}
    )


def _array(part: str, name: str, what: str) -> dict[str, Any]:
    """An array as a whole: the format reads the file, and a program its numbers."""
    identifier = f"{part}-{name}-array"
    content = {
        "@type": "cr:Field",
        "@id": f"{identifier}/content",
        "name": f"{identifier}/content",
        "description": "the .npy file, as numpy.load reads it",
        "dataType": "sc:Text",
        "source": {"fileSet": {"@id": f"{part}-{name}"}, "extract": {"fileProperty": "content"}},
    }
    return {"@type": "cr:RecordSet", "@id": identifier, "name": identifier, "description": what, "field": [content]}


def _labels(names: list[str]) -> dict[str, Any]:
    """The classes, by number and name."""
    kinds = {"label": "sc:Integer", "name": "sc:Text"}
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [
            {"@type": "cr:Field", "@id": f"classes/{name}", "name": f"classes/{name}", "dataType": kind}
            for name, kind in kinds.items()
        ],
        "data": [{"classes/label": number, "classes/name": name} for number, name in enumerate(names)],
    }
