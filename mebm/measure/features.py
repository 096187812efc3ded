"""Features of images by the network of a data set: its file, features as a stream, and their statistics.

The networks are modules of mebm/measure/networks. Values of different networks cannot be compared.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from mebm.data.moments import StreamingMoments, covariance_fault
from mebm.errors import CheckpointError, DataError, lacks_memory
from mebm.files import AGAIN, numbers, read_npz, read_torch, replacing, unreadable
from mebm.measure import networks
from mebm.measure.networks import FeatureNetwork

FORMAT = "mebm feature network"


def save_network(path: str | Path, network: FeatureNetwork) -> None:
    """Write a feature network atomically."""
    record, weights = network.state()
    record = {"network": networks.name_of(network), **record, "format": FORMAT}
    record |= {"model_state_dict": {key: value.cpu() for key, value in weights.items()}}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(record, file)


def load_network(path: str | Path, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Read a feature network, in evaluation mode on `device`. Raises CheckpointError for a file that is none."""
    advice = "give another file, or make it again with the features stage"
    record = read_torch(path, "feature network", advice)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a readable feature network (it is another file of torch); {advice}")
    try:
        if record.get("network") not in networks.NETWORKS.names():
            raise CheckpointError("it holds another network")
        network = networks.module(record["network"]).rebuild(record)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for values that it cannot take
        reason = str(error) if isinstance(error, CheckpointError) else unreadable(error)
        raise CheckpointError(f"{path}: is not a readable feature network ({reason}); {advice}") from error
    return network.to(device).eval()


@torch.no_grad()
def stream(network: FeatureNetwork, images: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [n, D] and logits [n, n_classes] of images, uint8 [N, C, H, W], batch by batch on the network's device.

    A batch that does not fit into memory is halved, as are all after it: networks look at each image by itself. Always
    float32: TensorFloat-32, the default of convolutions on GPUs, moves features in the third digit.
    """
    device = next(network.parameters()).device
    done = 0
    while done < len(images):
        batch = images[done : done + batch_size]
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        try:
            with exact if device.type == "cuda" else nullcontext():
                result = network(batch.to(device))
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not lacks_memory(error):
                raise
            batch_size = len(batch) // 2
            continue
        done += len(batch)
        yield result


@torch.no_grad()
def extract(
    network: FeatureNetwork, images: Tensor, batch_size: int, kept: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean [D] and covariance [D, D] (N - 1) of the features of images, float64, their logits [N, n_classes], and
    the features themselves of the images `kept`, float32 [len(kept), D].

    images: uint8 [N, C, H, W]; kept: int64, different indices of images, in the order wanted; None for none. Other
    features stream. All on the CPU. Raises DataError for fewer than two images.
    """
    kept = torch.empty(0, dtype=torch.int64) if kept is None else kept
    moments = StreamingMoments(network.n_features, next(network.parameters()).device)
    place = torch.full((len(images),), -1)
    place[kept] = torch.arange(len(kept))
    features, logits = torch.empty(len(kept), network.n_features), []
    done = 0
    for found, batch_logits in stream(network, images, batch_size):
        places, done = place[done : done + len(found)], done + len(found)
        moments.update(found)
        logits.append(batch_logits)
        wanted = places >= 0
        features[places[wanted]] = found.float().cpu()[wanted]
    return moments.mean.cpu(), moments.covariance(ddof=1).cpu(), torch.cat(logits).cpu(), features


def read_statistics(path: str | Path, network: FeatureNetwork) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of a reference file, such as pytorch-fid writes, for features of `network`.

    Raises DataError where the file's preprocessing is another than the network's. A file that does not name one comes
    from pytorch-fid.
    """
    arrays = read_npz(path, "mu", "sigma", optional=("preprocessing",))
    made_with = str(arrays.get("preprocessing", "pytorch_fid"))
    if made_with != network.preprocessing:
        raise DataError(
            f"{path}: holds statistics with the preprocessing {made_with}, but the features use "
            f"{network.preprocessing}; they do not compare. Change features.preprocessing or reference.file"
        )
    n = network.n_features
    if arrays["mu"].shape != (n,) or arrays["sigma"].shape != (n, n):
        raise DataError(f"{path}: holds statistics of {list(arrays['mu'].shape)} features, expected {n}")
    mu, sigma = (torch.from_numpy(numbers(path, key, arrays[key], arrays[key].shape)) for key in ("mu", "sigma"))
    if fault := covariance_fault(sigma):
        raise DataError(f"{path}: sigma is no covariance matrix: {fault}; {AGAIN}")
    return mu, sigma
