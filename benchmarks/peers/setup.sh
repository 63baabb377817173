#!/bin/sh
# Makes a virtual environment with the programs that puna is compared with: sh setup.sh FOLDER
# llama-cpp-python builds llama.cpp for this machine's instructions; that takes minutes and a C++
# compiler with CMake.
set -eu
folder=${1:?usage: sh setup.sh FOLDER}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet numpy safetensors gguf
"$folder/bin/pip" install --no-binary llama-cpp-python llama-cpp-python
"$folder/bin/python" -c 'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__)'
