"""A trained model in the layout of the Hugging Face Hub (docs/sharing.md, Weights for others).

A folder holds `model.safetensors` (parameters and BatchNorm's running averages), `replay_buffer.safetensors` (the
chains), and `config.json` with all that rebuilds the model and the hashes of both files. Nothing in it can run code.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from mebm.errors import CheckpointError
from mebm.files import Record, read_json, replacing, sha256, write_json
from mebm.method.energy import ARCHITECTURE
from mebm.settings.schema import EXPORTED
from mebm.training.checkpoint import FORMAT, VERSION, Checkpoint, Chosen

FILES = WEIGHTS, CHAINS, CONFIG = EXPORTED
BUFFER = "replay_buffer"  # the one tensor of CHAINS
# Of `train`, what is written of weights whose training is not known: what rebuilds the network, says whether its class
# head counts, and moves new chains. Every other setting would be stated as if they were trained by it.
NEEDED = (*ARCHITECTURE, "pyx_weight", "init", "step_size", "noise_std")
_ADVICE = "get the whole folder again"


class _Hashes(Record):
    weights: Annotated[str, Field(alias=WEIGHTS)]
    chains: Annotated[str, Field(alias=CHAINS)]


class _Config(Record):
    model_type: Literal["mebm"]
    version: int
    train: dict[str, Any]
    shape: list[int]
    n_classes: int
    iterations: int = 0
    restarts: int
    choice: Chosen | None = None
    extra_state: dict[str, Any]
    sha256: _Hashes


def is_exported(path: str | Path) -> bool:
    """Whether a path is meant as such a folder, or as a .safetensors file."""
    path = Path(path)
    return path.suffix == ".safetensors" or (path / WEIGHTS).is_file() or (path / CONFIG).is_file()


def write_exported(folder: str | Path, checkpoint: Checkpoint, **more: Any) -> None:
    """Write a checkpoint's last weights, chains, settings and choice. Equal contents give equal bytes.

    more: further entries of config.json, by name. Averaged weights are left out: put them into the model first. Of a
    checkpoint of 0 iterations the training is not known: of its settings only NEEDED are written.
    """
    from safetensors.torch import save

    state = {name: value for name, value in checkpoint.model.state_dict().items() if isinstance(value, Tensor)}
    # of parts of a network that remember more than tensors, such as ActNorm's "initialised"
    extra = {name: value for name, value in checkpoint.model.state_dict().items() if name not in state}
    folder, hashes = Path(folder), {}
    for name, tensors in ((WEIGHTS, state), (CHAINS, {BUFFER: checkpoint.replay_buffer})):
        plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        with replacing(folder / name) as temporary:
            # save_file's files are the owner's alone, and a full disk is no OSError of it
            temporary.write_bytes(save(plain, metadata={"format": "pt"}))
        hashes[name] = sha256(folder / name)
    record = {
        "model_type": "mebm",
        "version": VERSION,
        **more,
        "shape": list(checkpoint.shape),
        "n_classes": checkpoint.n_classes,
        **({"iterations": checkpoint.iterations} if checkpoint.iterations else {}),
        "restarts": checkpoint.restarts,
        **({"choice": checkpoint.choice} if checkpoint.choice else {}),
        "train": dict(checkpoint.train) if checkpoint.iterations else {key: checkpoint.train[key] for key in NEEDED},
        "extra_state": extra,
        "sha256": hashes,
    }
    write_json(folder / CONFIG, record)


def read_exported(path: str | Path) -> dict[str, Any]:
    """What the folder holds, as the record of a checkpoint that `load_checkpoint` takes and judges.

    path: the folder, or model.safetensors in it. Raises CheckpointError, or DataError for config.json, for a file that
    is missing, damaged, of another format, or not the one that config.json was written with.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.name != WEIGHTS:
        raise CheckpointError(f"{path}: is not named {WEIGHTS}; give the folder that `python -m mebm export` wrote")
    folder = path.parent if path.name == WEIGHTS else path
    weights, chains, config = (folder / name for name in FILES)
    if not config.is_file():
        raise CheckpointError(f"{config}: no such file, and it is needed to rebuild the network; {_ADVICE}")
    record = read_json(config, _Config)
    state = _tensors(weights, record) | record["extra_state"]
    buffer = _tensors(chains, record)
    if set(buffer) != {BUFFER}:
        raise CheckpointError(f"{chains}: lacks the tensor {BUFFER}, or holds others; {_ADVICE}")
    counts = {key: record.get(key, 0) for key in ("n_classes", "iterations", "restarts")}
    content = {"train": record["train"], "shape": tuple(record["shape"]), **counts, "averages": {}}
    content |= {"choice": record.get("choice")}
    head = {"format": FORMAT, "version": record["version"]}
    return {**head, **content, "model_state_dict": state, "replay_buffer": buffer[BUFFER]}


def _tensors(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of a file by name. Raises CheckpointError."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, and it is needed beside {CONFIG}; {_ADVICE}")
    try:
        tensors = load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # safetensors and torch raise several types for a damaged file
        raise CheckpointError(f"{path}: is damaged, or not a file of the format safetensors; {_ADVICE}") from error
    if sha256(path) != config["sha256"][path.name]:
        raise CheckpointError(f"{path}: is not the file that {CONFIG} beside it was written with; {_ADVICE}")
    return tensors
