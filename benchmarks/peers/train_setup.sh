#!/bin/sh
# Makes a virtual environment with PyTorch and transformers for train.py: sh train_setup.sh FOLDER
# The CPU build of PyTorch does, where pip is pointed at it; the usual one brings CUDA, 6 GB in all.
# torch.compile needs a C++ compiler.
set -eu
folder=${1:?usage: sh train_setup.sh FOLDER}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch transformers tokenizers safetensors numpy
"$folder/bin/python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
