# Install rules; find_package(segnets) then defines the target segnets::segnets.
include(CMakePackageConfigHelpers)

install(TARGETS segnets segnets_frame_ring EXPORT segnetsTargets ARCHIVE DESTINATION lib)
install(TARGETS segnets-run RUNTIME DESTINATION bin)
install(DIRECTORY include/segnets DESTINATION include)
install(EXPORT segnetsTargets NAMESPACE segnets:: DESTINATION lib/cmake/segnets)

set(SEGNETS_TORCH_VERSION "${Torch_VERSION}")
set(SEGNETS_OPENCV_VERSION "${OpenCV_VERSION}")  # empty without OpenCV
configure_package_config_file(cmake/segnetsConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/segnetsConfig.cmake"
  INSTALL_DESTINATION lib/cmake/segnets)
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/segnetsConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/segnetsConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/segnetsConfigVersion.cmake" DESTINATION lib/cmake/segnets)
