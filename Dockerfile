# petrflow with its locked environment, for a CPU or for an NVIDIA GPU. docs/gpu.md says how to build and run it.
#
# Two stages: the first needs uv and makes the environment, the second has neither uv nor a compiler. A change of the
# code makes only the last, small layers anew. Rules run as a user without rights; data/ and results/ are mounted.

ARG BASE=debian:bookworm-slim

# ---- the environment: .venv from uv.lock, with Paddle's CPU build, or its GPU build in its place
FROM ${BASE} AS environment
# cpu, or the folder of Paddle's index that the driver serves: cu126, cu129
ARG PADDLE=cpu
ARG PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /petrflow
COPY pyproject.toml uv.lock ./
COPY tools/ tools/
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy
RUN tools/set_up.sh --no-dev --no-install-project

# ---- what runs
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 make python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home petrflow
WORKDIR /petrflow
COPY --from=environment /petrflow/.venv .venv
COPY . .
# Folders that rules write are open to whatever user the container is run as. The time of .petrflow-synced tells make
# that the environment is there.
RUN .venv/bin/python -m compileall -q src workflow \
    && mkdir -p data results logs .snakemake \
    && chmod 1777 . data results logs .snakemake \
    && touch .venv/.petrflow-synced
# petrflow itself is not installed: its code is found where it lies. Caches go to a place that every user may write, and a
# user that the image does not know (docker run --user) gets a name, which Snakemake asks for.
ENV PATH=/petrflow/.venv/bin:$PATH PYTHONPATH=/petrflow/src HOME=/tmp LOGNAME=petrflow NUMBA_CACHE_DIR=/tmp/numba \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER petrflow
CMD ["make", "run"]
