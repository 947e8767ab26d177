# pilum._core: the Python extension, one binary for every CPython (stable ABI of 3.9).
#
# For a wheel (scikit-build-core sets SKBUILD) it is installed; otherwise it is built into
# python/pilum, so that the source tree can be imported as it stands.
find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)

file(GLOB PILUM_PYTHON_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/python/src/*.c)
add_library(pilum_python MODULE ${PILUM_PYTHON_SOURCES})
target_compile_definitions(pilum_python PRIVATE Py_LIMITED_API=0x03090000)
target_include_directories(pilum_python PRIVATE python/src src)
target_include_directories(pilum_python SYSTEM PRIVATE ${Python_INCLUDE_DIRS})
target_link_libraries(pilum_python PRIVATE pilum_static pilum_flags)
target_link_options(pilum_python PRIVATE -Wl,--as-needed -Wl,--exclude-libs,ALL)
set_target_properties(pilum_python PROPERTIES PREFIX "" OUTPUT_NAME _core SUFFIX .abi3.so)
if(SKBUILD)
  install(TARGETS pilum_python LIBRARY DESTINATION pilum COMPONENT python)
else()
  set_target_properties(pilum_python PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/python/pilum)
endif()
