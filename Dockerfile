# NVIDIA's PyTorch image with this package: torch, Transformer Engine and Apex are the image's own.
# Not built by this project yet: see docs/containers.md.
#
#   docker build -t retrieva .
ARG NGC_TAG=25.06-py3
FROM nvcr.io/nvidia/pytorch:${NGC_TAG}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/retrieva
COPY pyproject.toml README.md LICENSE ./
COPY retrieva_pretrain retrieva_pretrain
COPY data_prep data_prep
COPY recipes recipes
COPY slurm slurm
COPY grid_engine grid_engine
COPY local local

# The image constrains its own packages (PIP_CONSTRAINT); torch is held at what is there, so that no wheel replaces it.
RUN python -c "import torch; print('torch==' + torch.__version__)" > torch.txt \
    && python -m pip install --no-cache-dir -c torch.txt '.[export,eval,report]' \
    && python -c "import torch; assert torch.version.cuda, 'torch was replaced by a build without CUDA'" \
    && retrieva --version

WORKDIR /workspace
