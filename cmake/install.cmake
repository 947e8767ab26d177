# Install: header, both libraries, pilum.pc and the CMake package pilum::pilum. All of it
# finds its own place at run time, so the installed tree can be moved.
include(CMakePackageConfigHelpers)

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/pilum)
install(FILES include/pilum/pilum.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pilum)
install(TARGETS pilum_static pilum_shared EXPORT pilum-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT pilum-targets NAMESPACE pilum:: DESTINATION ${_package})

configure_package_config_file(cmake/pilum-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/pilum-config.cmake
  INSTALL_DESTINATION ${_package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/pilum-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pilum-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/pilum-config-version.cmake DESTINATION ${_package})

file(RELATIVE_PATH PILUM_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
list(TRANSFORM PILUM_LIBS PREPEND "-l" OUTPUT_VARIABLE _libs)
list(JOIN _libs " " PILUM_PC_LIBS)
configure_file(cmake/pilum.pc.in ${CMAKE_CURRENT_BINARY_DIR}/pilum.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pilum.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
