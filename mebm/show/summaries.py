"""Records of metrics, and the few of their numbers that tables, the page and `dvc metrics` show."""

from typing import Annotated

from pydantic import Field, RootModel, create_model, model_validator

from mebm.epochs import Choice
from mebm.errors import DataError
from mebm.files import Record
from mebm.registry import Registry

NETWORKS = Registry("mebm.measure.networks")
# (distance, score) of every feature network, of which a record of quality holds one pair
PAIRS = tuple((found["DISTANCE"], found["SCORE"]) for found in map(NETWORKS.constants, NETWORKS.names()))
DISTANCES, SCORES = (tuple(dict.fromkeys(names)) for names in zip(*PAIRS, strict=True))
SHARES = ("accuracy", "precision", "recall")  # of 1 in records, in percent wherever they are shown
_LABELS = {"fid": "FID", "is_mean": "IS", "loss": "test loss", **{name: f"{name} %" for name in SHARES}}
MANIFOLD = ("precision", "recall")  # in the same features, by nearest neighbours
QUALITY = (*DISTANCES, *SCORES, *MANIFOLD)
METRICS = (*QUALITY, "accuracy", "loss")


def label(metric: str, arrow: bool = True) -> str:
    """A metric in a table, with an arrow to where it is better: fcd ↓, classifier score ↑."""
    text = _LABELS.get(metric, metric.replace("_", " "))
    return f"{text} {'↓' if metric in (*DISTANCES, 'loss') else '↑'}" if arrow else text


def in_print(metric: str, value: float) -> float:
    """A metric's value in the unit in which it is shown: percent for the shares."""
    return 100 * value if metric in SHARES else value


Share = Annotated[float, Field(ge=0, le=1)]


class _Numbers(Record):
    n_images: Annotated[int, Field(ge=0)] = 0
    status: str = "ok"
    restarts: Annotated[int, Field(ge=0)] = 0
    n_reference: Annotated[int, Field(ge=0)] | None = None
    reference_split: str | None = None
    preprocessing: str = ""
    features_accuracy: Share | None = None
    features_warning: str | None = None
    precision: Share | None = None
    recall: Share | None = None
    neighbours: Annotated[int, Field(ge=1)] | None = None
    n_features: Annotated[int, Field(ge=0)] | None = None


# A record of metrics, as far as tables need it: null where there is no number.
Numbers = create_model("Numbers", __base__=_Numbers, **dict.fromkeys((*DISTANCES, *SCORES), (float | None, None)))
# Keys of a record that tables show or judge by, where it has them
ALSO = ("status", *MANIFOLD, "neighbours", "n_features", "preprocessing", "n_reference", "reference_split")
ALSO += ("features_accuracy", "features_warning")


class Measured(Numbers):
    """The quality of one set of images."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Measured":
        if lacking := [key for key in (*_pair(self.model_fields_set), "n_images") if key not in self.model_fields_set]:
            raise ValueError(f"it lacks the key {lacking[0]}")
        return self


class Quality(RootModel[dict[str, Measured]]):
    """quality.json: what was measured, by protocol."""


class Accuracy(Record):
    """accuracy.json."""

    choice: Choice | None = None
    accuracy: float | None
    loss: float | None
    n_images: Annotated[int, Field(ge=0)]


class Summary(Numbers):
    """What `summarise` makes of both: every other key is a protocol."""

    __pydantic_extra__: dict[str, Numbers]
    accuracy: float | None = None
    loss: float | None = None
    n_test: Annotated[int, Field(ge=0)] = 0
    hours: Annotated[float, Field(ge=0)] | None = None
    choice: Choice | None = None


class Spent(Record):
    """cost.json: what training took; null where a run was not trained here."""

    iterations: Annotated[int, Field(ge=0)] | None
    flops: Annotated[float, Field(ge=0)] | None
    hours: Annotated[float, Field(ge=0)] | None


def _pair(keys: object) -> tuple[str, str]:
    """Names of distance and score of the network that a record's keys are of."""
    return next((pair for pair in PAIRS if pair[0] in keys), PAIRS[0])


def summarise(quality: dict[str, dict], accuracy: dict | None = None) -> dict:
    """The numbers of table rows from the full records of quality, by protocol, and for a run of accuracy.

    Keys of the protocol "full" stand at the top, those of others below their name. Raises DataError for a record that
    lacks one.
    """

    def condensed(record: dict) -> dict:
        try:
            keys = (*_pair(record), "n_images")
            return {key: record[key] for key in keys} | {key: record[key] for key in ALSO if key in record}
        except KeyError as error:
            raise DataError(f"a metric record lacks the key {error}; run its stage again") from error

    summary = condensed(quality["full"]) if "full" in quality else {}
    summary |= {name: condensed(record) for name, record in quality.items() if name != "full"}
    if accuracy is None:
        return summary
    if restarts := max((record.get("restarts", 0) for record in quality.values()), default=0):
        summary["restarts"] = restarts
    if choice := accuracy.get("choice"):
        summary["choice"] = {key: choice[key] for key in Choice.model_fields}
    try:
        return summary | {"n_test": accuracy["n_images"]} | {key: accuracy[key] for key in ("accuracy", "loss")}
    except KeyError as error:
        raise DataError(f"a metric record lacks the key {error}; run its stage again") from error
