# The one file that uses cuDNN's graphs by NVIDIA's headers: cudnn.h, the toolkit's or the wheel's beside torch, and cudnn-frontend's,
# which tools/setup.sh fetches. The library is not linked: libtorch has it loaded, and the headers look its functions up.
find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${LIBTORCH_DIR}/../nvidia/cudnn/include)
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
          HINTS ${CONCLAVE_DEPS}/include ${CMAKE_SOURCE_DIR}/.offline/include ${CMAKE_SOURCE_DIR}/.cache/setup/cudnn_frontend/include)
if(NOT CUDNN_INCLUDE_DIR OR NOT CUDNN_FRONTEND_INCLUDE_DIR)
  message(FATAL_ERROR "cudnn.h (of cuDNN 9, in the CUDA toolkit or beside torch) or cudnn_frontend.h (run tools/setup.sh, make does) "
                      "was not found. -DCONCLAVE_CUDA=OFF builds for the CPU")
endif()
# Hidden, so that libtorch's own copy of these headers' functions stays its own. -O1: a third of the time, and nothing in it is hot.
set(cudnn_frontend_options -isystem${CUDNN_FRONTEND_INCLUDE_DIR} -isystem${CUDNN_INCLUDE_DIR} -fvisibility=hidden -O1
    -DNV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING -DCUDNN_FRONTEND_SKIP_JSON_LIB)
set_source_files_properties(src/ops/attention_cudnn_cuda.cpp PROPERTIES COMPILE_OPTIONS "${cudnn_frontend_options}"
                                                                        SKIP_UNITY_BUILD_INCLUSION ON)
