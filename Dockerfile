# The program with CUDA. It holds no data: mount the project.
#
#   docker build -t repro .
#   docker run --gpus all --rm -v "$PWD:/project" -e REPRO_HMD_PASSWORD_FILE=/project/password repro make all --profile paper
#
# COMPUTE_CAP is that of the GPU: 75 (T4), 80 (A100), 86 (RTX 30), 89 (L4, RTX 40), 90 (H100).
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build
ARG COMPUTE_CAP=80
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95
WORKDIR /source
COPY . .
RUN CUDA_COMPUTE_CAP=$COMPUTE_CAP /root/.cargo/bin/cargo install --locked --path . --features cuda --root /usr/local

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/repro /usr/local/bin/repro
WORKDIR /project
ENTRYPOINT ["repro"]
