"""Frechet distance of 2048-dimensional statistics: ours against pytorch-fid's, in one process.

    python benchmarks/frechet.py [--threads N]

Statistics of 10,000 against 10,000 vectors whose variances span eight orders of magnitude, as those of Inception do.
"""

import argparse
import time

import torch

from mebm.measure.metrics import frechet_distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--dimensions", type=int, default=2048, help="of the features (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    from pytorch_fid.fid_score import calculate_frechet_distance

    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-4, 0, args.dimensions, dtype=torch.float64)
    statistics = []
    for n in (10_000, 10_000, 1_500):
        features = torch.randn(n, args.dimensions, generator=generator, dtype=torch.float64) * scale
        statistics.append((features.mean(0), features.T.cov()))
    for name, other in (("10,000 images", statistics[1]), ("1,500 images, fewer than dimensions", statistics[2])):
        values = (*statistics[0], *other)
        frechet_distance(*values)  # threads started, memory touched
        start = time.perf_counter()
        ours = frechet_distance(*values)
        middle = time.perf_counter()
        theirs = calculate_frechet_distance(*(value.numpy() for value in values))
        end = time.perf_counter()
        print(
            f"{name}: ours {middle - start:.2f} s ({ours:.6f}), pytorch-fid {end - middle:.2f} s ({theirs:.6f}), "
            f"ratio {(end - middle) / (middle - start):.1f}"
        )


if __name__ == "__main__":
    main()
