"""Runs the steps of the Dockerfile without Docker, in a Debian of its own: `python tests/container.py FOLDER`.

It needs root, Debian's package debootstrap, and the network. FOLDER becomes the root file system; one that is there is
taken as it is. --without-torch leaves out PyTorch and what depends on it, and then only the install is tried, not the
commands. The image's own command and file system layers are Docker's alone.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

ROOT = Path(__file__).parent.parent
TORCH = re.compile(r"(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==")
PASSED = ("PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")  # of this machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="root file system, made where it is not there")
    parser.add_argument("--without-torch", action="store_true", help="install the rest of the lock only")
    args = parser.parse_args()
    root, where, environment = args.folder, "/", {key: os.environ[key] for key in PASSED if key in os.environ}
    environment |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        name, _, words = line.partition(" ")
        if not line or name.startswith("#") or name == "CMD":
            continue
        print(f"== {line}", flush=True)
        words = words if name == "RUN" else Template(words).safe_substitute(environment)
        if name == "FROM":
            start(root, re.fullmatch(r"debian:(\w+)-slim", words)[1])
        elif name == "WORKDIR":
            where = words
            (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name in ("ENV", "ARG"):
            environment |= dict(pair.split("=", 1) for pair in words.split())
        elif name == "COPY":
            copy(words.split(), root / where.lstrip("/"), args.without_torch)
        elif name == "RUN":
            command = ["chroot", root, "/bin/sh", "-ec", f'cd "{where}"\n{words}']
            subprocess.run(command, env=environment, check=True)
        else:
            print(f"error: {name} is not understood", file=sys.stderr)
            return 1
    tried = "python -c 'import snakemake, dvc'" if args.without_torch else "python -c 'import torch, mebm; mebm.load'"
    subprocess.run(["chroot", root, "/bin/sh", "-ec", f"cd /opt/mebm && {tried}"], env=environment, check=True)
    print(f"all steps done; {tried} runs")
    return 0


def start(root: Path, release: str) -> None:
    """A minimal Debian, with this machine's certificates and names of hosts."""
    if not (root / "bin").exists():
        subprocess.run(["debootstrap", "--variant=minbase", release, root], check=True)
    for name in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        if (Path("/") / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/") / name, root / name)


def copy(words: list[str], into: Path, without_torch: bool) -> None:
    *sources, target = words
    for source in sources:
        path = into / target / (Path(source).name if target == "./" else "")
        path.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, path)
        if source == "requirements.lock" and without_torch:
            blocks = re.split(r"^(?=\S)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            path.write_text("".join(block for block in blocks if not TORCH.match(block)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
