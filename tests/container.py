"""Runs the steps of the Dockerfile without Docker, in a Debian of its own: `python tests/container.py FOLDER`.

It needs root, Debian's package debootstrap, the network and about 8 GB. FOLDER becomes the root file system; one that
is there is taken as it is. The image's layers and its own command are Docker's alone.
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
# Of this machine's environment, what says where packages come from
PASSED = ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="root file system, made where it is not there")
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
            copy(words.split(), root / where.lstrip("/"))
        elif name == "RUN":
            command = ["chroot", root, "/bin/sh", "-ec", f'cd "{where}"\n{words}']
            subprocess.run(command, env=environment, check=True)
        else:
            print(f"error: {name} is not understood", file=sys.stderr)
            return 1
    tried = "python -c 'import torch, torchvision, mebm; mebm.load' && snakemake --version && dvc --version"
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


def copy(words: list[str], into: Path) -> None:
    """As COPY does."""
    *sources, target = words
    for source in sources:
        path = into / target / (Path(source).name if target == "./" else "")
        path.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, path)


if __name__ == "__main__":
    sys.exit(main())
