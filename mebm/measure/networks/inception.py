"""The Inception network of FID and Inception score, with its published weights and the two preprocessings in use.

"tf1" resizes and scales as TensorFlow 1 did, which is how the published figures of this method were made (by
torch-fidelity, whose features it equals bit for bit); "pytorch_fid" is what the package pytorch-fid does. Features of
the two differ, so statistics carry the name.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mebm.download import RemoteFile, obtain
from mebm.errors import CheckpointError
from mebm.files import check_state, read_torch, sha256
from mebm.settings.schema import Features

DISTANCE = "fid"
SCORE = "is_mean"
SCORE_STD = "is_std"
SIZE = 299
PREPROCESSINGS = ("tf1", "pytorch_fid")
_POOLS_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


def tf1_resize(x: Tensor, size: int = SIZE) -> Tensor:
    """Bilinear resize of TensorFlow 1, [B, C, H, W] float to [B, C, size, size].

    The source coordinate of target pixel i is i H / size, without the half-pixel offset of today's libraries.
    """

    def positions(n: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(size, dtype=x.dtype, device=x.device) * torch.tensor(n / size, dtype=torch.float32)
        low = at.long()
        return low, (low + 1).clamp(max=n - 1), at - low

    top, bottom, dy = positions(x.shape[2])
    left, right, dx = positions(x.shape[3])
    x = x[..., left] + (x[..., right] - x[..., left]) * dx
    upper, lower = x[:, :, top], x[:, :, bottom]
    return upper + (lower - upper) * dy[:, None]


def empty_network() -> nn.Module:
    """The layers without values, on the meta device: torchvision's network with the blocks of pytorch-fid."""
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    with torch.device("meta"):
        net = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = (
            FIDInceptionA(channels, pool_features=pool) for channels, pool in ((192, 32), (256, 64), (288, 64))
        )
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            setattr(net, name, FIDInceptionC(768, channels_7x7=width))
        net.Mixed_7b, net.Mixed_7c = FIDInceptionE_1(1280), FIDInceptionE_2(2048)
    return net


class InceptionFeatures(nn.Module):
    """Images as bytes, uint8 [B, 1 or 3, H, W], to pool3 features [B, 2048] and logits [B, 1008] without bias."""

    title, n_features, channels, knows_classes, accuracy = "Inception", 2048, None, False, None

    def __init__(self, state: dict[str, Tensor], preprocessing: str, weights_sha256: str | None = None):
        """weights_sha256: of the file that `state` came from, for the record.

        Raises CheckpointError where `state` is not the published network's (566 tensors).
        """
        super().__init__()
        if preprocessing not in PREPROCESSINGS:
            raise ValueError(f"preprocessing {preprocessing!r} is not one of {PREPROCESSINGS}")
        self.preprocessing, self.weights_sha256 = preprocessing, weights_sha256
        net = empty_network()
        try:
            check_state(state, net.state_dict())
            net.load_state_dict({key: state[key].to(like.dtype) for key, like in net.state_dict().items()}, assign=True)
        except (RuntimeError, CheckpointError) as error:
            raise CheckpointError(f"not Inception's weights: {' '.join(str(error).split())[:200]}") from error
        self.net = net.requires_grad_(False).eval()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The preprocessing, the weights and the hash of the file that they came from."""
        return {"preprocessing": self.preprocessing, "weights_sha256": self.weights_sha256}, self.net.state_dict()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.to(torch.float32)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.preprocessing == "tf1":
            x = (tf1_resize(x) - 128) / 128
        else:
            x = 2 * F.interpolate(x / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False) - 1
        for name in _LAYERS:
            x = getattr(self.net, name)(x)
            if name in _POOLS_AFTER:
                x = F.max_pool2d(x, kernel_size=3, stride=2)
        features = F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
        return features, features @ self.net.fc.weight.T


def published_weights(settings: Features) -> RemoteFile:
    """The published weight file, with the hash that the settings expect."""
    from pytorch_fid.inception import FID_WEIGHTS_URL

    return RemoteFile(FID_WEIGHTS_URL.rsplit("/", 1)[1], FID_WEIGHTS_URL, f"sha256:{settings.weights_sha256}")


def read_weights(settings: Features) -> tuple[dict[str, Tensor], str]:
    """Inception's state dict and the file's SHA-256.

    Looked for at features.weights, then in torch's hub cache (where it is also downloaded to). The hash is verified
    each time, before the file is opened. Raises DataError for a file that is missing and cannot be had, or is another.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    remote = published_weights(settings)
    path = Path(settings.weights) if settings.weights else None
    if path is not None and path.is_file():
        path = obtain(RemoteFile(path.name, remote.url, remote.checksum), path.parent)
    else:
        # torch-fidelity keeps the same tensors under a name of its own
        twin = RemoteFile(re.sub(r"^pt_", "weights-", remote.name).replace("_", "-"), remote.url, remote.checksum)
        path = obtain(twin if twin.at(cache).is_file() and not remote.at(cache).is_file() else remote, cache)
    advice = "give another one as features.weights"
    return read_torch(path, "weight file", advice), sha256(path)


def make(
    settings: Features, train_images: Path, test_images: Path, device: torch.device, batch_size: int
) -> tuple[InceptionFeatures, dict[str, Any]]:
    """The published network, which needs no images."""
    state, weights_sha256 = read_weights(settings)
    record = {"preprocessing": settings.preprocessing, "weights_sha256": weights_sha256}
    return InceptionFeatures(state, **record), record


def rebuild(record: dict[str, Any]) -> InceptionFeatures:
    """The network of a file. Raises CheckpointError for weights or a hash that are none."""
    value = record.get("weights_sha256")
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        raise CheckpointError(f"weights_sha256 is {str(value)[:40]!r}")
    return InceptionFeatures(record["model_state_dict"], record["preprocessing"], value)
