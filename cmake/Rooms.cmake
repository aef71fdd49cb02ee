# conclave_room(NAME USES...): one static library a room, from src/NAME/**.cpp, that sees the rooms it may use and no other.
# The room `kernels` is made of .cu files and knows no libtorch; files named *_cuda.cpp are its callers. Without CUDA neither
# is compiled.
# conclave_program(NAME ROOM USES...): the executable made of src/ROOM/*.cpp.
# tools/check_layers.py reads these calls in CMakeLists.txt and holds every #include to them.
set(CONCLAVE_DEPS "" CACHE PATH
    "prefix with include/ and lib/ of yaml-cpp, nlohmann-json, CLI11, PCRE2, xxhash, GoogleTest; empty: the system's")
add_library(conclave_deps INTERFACE)
if(CONCLAVE_DEPS)
  target_include_directories(conclave_deps SYSTEM INTERFACE ${CONCLAVE_DEPS}/include)
endif()

# The path of a library in CONCLAVE_DEPS or the system; static where a name ends in .a, so that the program needs none of
# them where it runs.
function(conclave_find_library var)
  find_library(${var} NAMES ${ARGN} HINTS ${CONCLAVE_DEPS}/lib)
  if(NOT ${var})
    message(FATAL_ERROR "${ARGN} is not installed; run tools/setup.sh (make does), after `rm -rf .cache/setup` if it "
                        "was there before")
  endif()
endfunction()
conclave_find_library(YAML_CPP_LIBRARY libyaml-cpp.a)
conclave_find_library(PCRE2_LIBRARY libpcre2-8.a)
set(conclave_deps_of_base ${YAML_CPP_LIBRARY})
set(conclave_deps_of_data ${PCRE2_LIBRARY})
if(CONCLAVE_CUDA)
  set(conclave_deps_of_comm libtorch::nccl)
  add_library(conclave_cupti INTERFACE)
  target_include_directories(conclave_cupti SYSTEM INTERFACE ${CONCLAVE_CUPTI_INCLUDE})
  target_link_libraries(conclave_cupti INTERFACE ${CONCLAVE_CUPTI_LIBRARY})
  set(conclave_deps_of_recipes conclave_cupti)
endif()

function(conclave_target target room)
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${target} PUBLIC ${ARGN} conclave_deps ${CONCLAVE_LIBTORCH} Threads::Threads
                                         ${conclave_deps_of_${room}})
endfunction()

function(conclave_room room)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/*.cpp)
  if(NOT CONCLAVE_CUDA)
    list(FILTER sources EXCLUDE REGEX "_cuda\\.cpp$")
  endif()
  if(room STREQUAL kernels)
    conclave_kernels()
    return()
  endif()
  list(TRANSFORM ARGN PREPEND conclave_ OUTPUT_VARIABLE uses)
  if(NOT sources)
    add_library(conclave_${room} INTERFACE)
    target_link_libraries(conclave_${room} INTERFACE ${uses})
    return()
  endif()
  add_library(conclave_${room} STATIC ${sources})
  set_target_properties(conclave_${room} PROPERTIES UNITY_BUILD_BATCH_SIZE 4)
  conclave_target(conclave_${room} ${room} ${uses})
endfunction()

function(conclave_program name room)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${room}/*.cpp)
  if(NOT sources)
    return()
  endif()
  list(TRANSFORM ARGN PREPEND conclave_ OUTPUT_VARIABLE uses)
  add_executable(${name} ${sources})
  target_compile_definitions(${name} PRIVATE CONCLAVE_VERSION="${PROJECT_VERSION}")
  conclave_target(${name} ${room} ${uses})
endfunction()
