# The program with CUDA. It holds no data: mount the project.
#
#   docker build -t repro .
#   docker run --gpus all --rm -v "$PWD:/project" -e REPRO_HMD_PASSWORD_FILE=/project/password repro make all --profile paper
#
# COMPUTE_CAP is that of the GPU: 75 (T4), 80 (A100), 86 (RTX 30), 89 (L4, RTX 40), 90 (H100).
FROM rust:1.95.0-slim AS rust

FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
ARG COMPUTE_CAP=80
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /source
COPY . .
RUN CUDA_COMPUTE_CAP=$COMPUTE_CAP cargo install --locked --path . --features cuda --root /usr/local \
    && .ci/third-party-notices --features cuda > THIRD-PARTY-NOTICES

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/repro /usr/local/bin/repro
COPY --from=build /source/LICENSE-APACHE /source/LICENSE-MIT /source/THIRD-PARTY-NOTICES /usr/share/doc/repro/
WORKDIR /project
ENTRYPOINT ["repro"]
