# The environment of requirements.lock, for one machine, Kubernetes (profiles/kubernetes) and Apptainer (apptainer.def):
#   docker build --tag mebm .                     # 1 GB without CUDA: --build-arg TORCH_INDEX=ADDRESS (docs/install.md)
# The image holds no project: mount a clone as the folder that you work in, and use its commands.
#   docker run --rm --volume "$PWD:/mebm" --user "$(id -u):$(id -g)" mebm snakemake
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates git make python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mebm
COPY Makefile pyproject.toml requirements.lock LICENSE README.md ./
COPY .dvc/config .dvc/config
COPY mebm mebm
COPY stages stages
ARG TORCH_INDEX=
RUN make install PYTHON=python3 TORCH_INDEX="$TORCH_INDEX" && rm -rf /root/.cache
ENV PATH=/opt/mebm/.venv/bin:$PATH XDG_CACHE_HOME=/tmp/cache LOGNAME=mebm GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
WORKDIR /mebm
CMD ["snakemake"]
