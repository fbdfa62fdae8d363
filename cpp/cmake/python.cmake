# Find the Python to build the module for, and the LibTorch in its torch unless Torch_DIR is given.
find_package(Python 3.11 QUIET COMPONENTS Interpreter Development.Module)
if(Python_Interpreter_FOUND AND NOT Torch_DIR AND NOT CMAKE_PREFIX_PATH MATCHES "torch")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.utils.cmake_prefix_path)"
    OUTPUT_VARIABLE SEGNETS_TORCH_PREFIX OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(APPEND CMAKE_PREFIX_PATH "${SEGNETS_TORCH_PREFIX}")
endif()
if(NOT Python_Development.Module_FOUND)
  set(SEGNETS_PYTHON_ADVICE
    "no headers of Python 3.11 or newer. On Debian and Ubuntu, install python3-dev, or set -DPython_EXECUTABLE=.")
  if(NOT SEGNETS_BUILD_PYTHON STREQUAL "AUTO")
    message(FATAL_ERROR "segnets: ${SEGNETS_PYTHON_ADVICE}")
  endif()
  message(STATUS "segnets: without the Python module segnets_native: ${SEGNETS_PYTHON_ADVICE}")
  set(SEGNETS_BUILD_PYTHON OFF)
endif()
