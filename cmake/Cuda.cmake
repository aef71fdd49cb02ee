# CONCLAVE_CUDA: whether kernels for NVIDIA GPUs are built; on where nvcc is found.
# conclave_kernels(): the library of the room `kernels`, from src/kernels/**.cu; without CUDA an empty one.
find_program(CONCLAVE_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(CONCLAVE_NVCC)
  set(found ON)
else()
  set(found OFF)
endif()
option(CONCLAVE_CUDA "kernels for NVIDIA GPUs (needs nvcc 13)" ${found})

# Machine code for Hopper with its own instructions (wgmma, TMA: sm_90a), and for any other GPU from Ampere on what the driver
# makes of sm_80's PTX when the program starts first.
set(CONCLAVE_CUDA_ARCHITECTURES 80-virtual 90a-real CACHE STRING "what nvcc compiles for, as CMAKE_CUDA_ARCHITECTURES names it")

if(CONCLAVE_CUDA)
  set(CMAKE_CUDA_COMPILER ${CONCLAVE_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES ${CONCLAVE_CUDA_ARCHITECTURES})
  if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
    message(FATAL_ERROR "${CONCLAVE_NVCC} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}; 13 is needed beside libtorch's. "
                        "-DCONCLAVE_CUDA=OFF builds for the CPU")
  endif()
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY None) # CUDA::cudart below: the shared one, which libtorch uses too
  # Records of what the GPU did, for `conclave benchmark`; libtorch needs the library too.
  set(places ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_ROOT} /usr/local/cuda)
  find_path(CONCLAVE_CUPTI_INCLUDE cupti.h HINTS ${places} PATH_SUFFIXES include extras/CUPTI/include)
  find_library(CONCLAVE_CUPTI_LIBRARY NAMES libcupti.so.13 HINTS ${places} PATH_SUFFIXES lib lib64 extras/CUPTI/lib64)
  if(NOT CONCLAVE_CUPTI_INCLUDE OR NOT CONCLAVE_CUPTI_LIBRARY)
    message(FATAL_ERROR "CUPTI is not there: expected cupti.h and libcupti.so.13 beside the toolkit of ${CONCLAVE_NVCC}; install "
                        "cuda-cupti-dev-13-0. -DCONCLAVE_CUDA=OFF builds for the CPU")
  endif()
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: GPU build for ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "no CUDA: CPU-only build")
endif()

function(conclave_kernels)
  if(NOT CONCLAVE_CUDA)
    add_library(conclave_kernels INTERFACE)
    target_link_libraries(conclave_kernels INTERFACE conclave_base)
    return()
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/*.cu)
  add_library(conclave_kernels STATIC ${sources})
  target_include_directories(conclave_kernels PUBLIC ${CMAKE_SOURCE_DIR}/src)
  # --split-compile would not pay: each file holds few kernels. Lineinfo costs nothing at run time; profilers and
  # compute-sanitizer name lines by it.
  target_compile_options(conclave_kernels PRIVATE -O3 -lineinfo --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra)
  target_compile_definitions(conclave_kernels PUBLIC CONCLAVE_CUDA)
  target_link_libraries(conclave_kernels PUBLIC CUDA::cudart INTERFACE conclave_base)
endfunction()
