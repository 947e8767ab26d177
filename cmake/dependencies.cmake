# What the library links: every name is a Debian 12 package.
#   jansson  JSON            xxhash   checksums         zstd, lz4  compressed buffers
#   roaring  bitmaps         curl, OpenSSL, expat  the S3 store only
find_package(Threads REQUIRED)

set(PILUM_LIBS m)
function(pilum_need name header package)
  find_library(PILUM_LIB_${name} NAMES ${name})
  find_path(PILUM_INC_${name} NAMES ${header})
  if(NOT PILUM_LIB_${name} OR NOT PILUM_INC_${name})
    message(FATAL_ERROR "${name} (${header}) not found: apt-get install ${package}, or run `make setup`")
  endif()
  set(PILUM_LIBS ${PILUM_LIBS} ${name} PARENT_SCOPE)
endfunction()

pilum_need(jansson jansson.h libjansson-dev)
pilum_need(xxhash xxhash.h libxxhash-dev)
pilum_need(zstd zstd.h libzstd-dev)
pilum_need(lz4 lz4.h liblz4-dev)
pilum_need(roaring roaring/roaring.h libroaring-dev)
if(PILUM_S3)
  pilum_need(curl curl/curl.h libcurl4-openssl-dev)
  pilum_need(crypto openssl/hmac.h libssl-dev)
  pilum_need(expat expat.h libexpat1-dev)
endif()
