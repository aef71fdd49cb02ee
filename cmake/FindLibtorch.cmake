# Finds libtorch in the Python that the build uses (CONCLAVE_PYTHON, which tools/build.sh gives), and makes two imported targets:
#   libtorch::cpu   libc10 + libtorch_cpu
#   libtorch::cuda  the above + libc10_cuda + libtorch_cuda, kept by --no-as-needed (else CUDA silently vanishes)
# find_package(Torch) is not used: it needs nvcc at configure time and defines USE_C10D_* on every consumer.
set(CONCLAVE_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python CACHE FILEPATH "the Python that holds torch 2.11.0")
execute_process(
  COMMAND ${CONCLAVE_PYTHON} -c
          "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))"
  OUTPUT_VARIABLE LIBTORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE libtorch_error RESULT_VARIABLE libtorch_rc)
if(NOT libtorch_rc EQUAL 0)
  message(FATAL_ERROR "no torch package in ${CONCLAVE_PYTHON}; run tools/setup.sh (make does) first.\n${libtorch_error}")
endif()
file(READ ${LIBTORCH_DIR}/version.py libtorch_version_py)
string(REGEX MATCH "__version__ = '([0-9.]+)" _ "${libtorch_version_py}")
set(LIBTORCH_VERSION ${CMAKE_MATCH_1})
if(NOT LIBTORCH_VERSION STREQUAL "2.11.0")
  message(FATAL_ERROR "expected torch 2.11.0 in ${CONCLAVE_PYTHON}, got ${LIBTORCH_VERSION}")
endif()
set(libtorch_includes ${LIBTORCH_DIR}/include ${LIBTORCH_DIR}/include/torch/csrc/api/include)

foreach(lib c10 torch_cpu c10_cuda torch_cuda)
  add_library(libtorch::${lib} SHARED IMPORTED)
  set_target_properties(libtorch::${lib} PROPERTIES IMPORTED_LOCATION ${LIBTORCH_DIR}/lib/lib${lib}.so)
endforeach()

# OpenMP belongs to it: at run time libtorch's own libgomp (beside it, found by the program's rpath) serves both, so there is
# one set of threads. find_package(OpenMP) would name the compiler's libgomp and add its folder to the rpath.
add_library(libtorch::cpu INTERFACE IMPORTED)
target_include_directories(libtorch::cpu SYSTEM INTERFACE ${libtorch_includes})
target_compile_definitions(libtorch::cpu INTERFACE AT_PER_OPERATOR_HEADERS _GLIBCXX_USE_CXX11_ABI=1)
target_compile_options(libtorch::cpu INTERFACE -fopenmp)
target_link_options(libtorch::cpu INTERFACE -fopenmp)
target_link_libraries(libtorch::cpu INTERFACE libtorch::torch_cpu libtorch::c10)

add_library(libtorch::cuda INTERFACE IMPORTED)
target_link_options(libtorch::cuda INTERFACE LINKER:--no-as-needed)
target_link_libraries(libtorch::cuda INTERFACE libtorch::cpu libtorch::torch_cuda libtorch::c10_cuda)

# NCCL, which libtorch_cuda is linked to: the toolkit's, or the wheel's beside torch.
if(CONCLAVE_CUDA)
  set(nccl_beside_torch ${LIBTORCH_DIR}/../nvidia/nccl)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${nccl_beside_torch}/include)
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib
                                                            ${nccl_beside_torch}/lib)
  if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
    message(FATAL_ERROR "nccl.h or libnccl.so.2 was found neither in the CUDA toolkit nor beside torch; install NCCL 2.28 "
                        "(libnccl-dev), or build with -DCONCLAVE_CUDA=OFF")
  endif()
  add_library(libtorch::nccl SHARED IMPORTED)
  set_target_properties(libtorch::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY})
  target_include_directories(libtorch::nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
endif()

# What every room is linked to.
set(CONCLAVE_LIBTORCH libtorch::cpu)
if(CONCLAVE_CUDA)
  set(CONCLAVE_LIBTORCH libtorch::cuda)
endif()
