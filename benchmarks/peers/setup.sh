#!/bin/sh
# Makes a virtual environment with the programs that puna is compared with: sh setup.sh FOLDER
# llama-cpp-python builds llama.cpp for this machine's instructions; that takes minutes and a C++
# compiler with CMake. tile_config.h mends what GCC 12 makes of its AMX.
set -eu
folder=${1:?usage: sh setup.sh FOLDER}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet numpy safetensors gguf
tiles=$(cd "$(dirname "$0")" && pwd)/tile_config.h
CMAKE_ARGS="-DCMAKE_CXX_FLAGS='-include $tiles' ${CMAKE_ARGS:-}" \
    "$folder/bin/pip" install --no-binary llama-cpp-python llama-cpp-python
"$folder/bin/python" -c 'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__)'
