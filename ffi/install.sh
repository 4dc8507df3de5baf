#!/bin/sh
# Installs the C library that `cargo build -p mlomusai --release` made: libraries, header, pkg-config and CMake files.
#
#   PREFIX      where it will be used from; default /usr/local
#   LIBDIR      default PREFIX/lib
#   INCLUDEDIR  default PREFIX/include
#   DESTDIR     put in front of every path that is written, for packagers
#   BUILD       the folder with the built libraries; default target/release
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
PREFIX=${PREFIX:-/usr/local}
LIBDIR=${LIBDIR:-${PREFIX%/}/lib}
INCLUDEDIR=${INCLUDEDIR:-${PREFIX%/}/include}
DESTDIR=${DESTDIR:-}
BUILD=${BUILD:-$root/target/release}

abi=$(sed -n 's/^#define LOMUSAI_ABI_VERSION //p' "$root/include/lomusai.h")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")

case $(uname -s) in
  Darwin) built=libmlomusai.dylib shared=libmlomusai.$abi.dylib ;;
  *) built=libmlomusai.so shared=libmlomusai.so.$abi ;;
esac
[ -f "$BUILD/$built" ] || { echo "$BUILD/$built is missing: run cargo build -p mlomusai --release" >&2; exit 1; }

lib=$DESTDIR$LIBDIR
mkdir -p "$lib/pkgconfig" "$lib/cmake/Lomusai" "$DESTDIR$INCLUDEDIR"
install -m 755 "$BUILD/$built" "$lib/$shared"
ln -sf "$shared" "$lib/$built"
install -m 644 "$root/include/lomusai.h" "$DESTDIR$INCLUDEDIR/lomusai.h"

# The static library holds all of Rust's standard library as well. Its symbols are made local, so that it can be linked beside
# other Rust libraries (and bitcode that tools of other versions stumble over is left out); where the tools for that are missing it is installed as it is.
if [ -f "$BUILD/libmlomusai.a" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cp "$here/symbols.txt" "$work/keep"
  if [ "$(uname -s)" = Linux ] &&
    "${LD:-ld}" -r --whole-archive "$BUILD/libmlomusai.a" -o "$work/all.o" 2>/dev/null &&
    "${OBJCOPY:-objcopy}" -R .llvmbc -R .llvmcmd --keep-global-symbols="$work/keep" "$work/all.o" "$work/lomusai.o" 2>/dev/null; then
    rm -f "$work/libmlomusai.a"
    "${AR:-ar}" rcs "$work/libmlomusai.a" "$work/lomusai.o"
    install -m 644 "$work/libmlomusai.a" "$lib/libmlomusai.a"
  else
    install -m 644 "$BUILD/libmlomusai.a" "$lib/libmlomusai.a"
  fi
fi

# From the folder of the CMake files to the headers, so that an installed tree can be moved.
case $INCLUDEDIR,$LIBDIR in
  "${PREFIX%/}/include,${PREFIX%/}/lib") include=../../../include ;;
  *) include= ;;
esac
fill() {
  sed -e "s|@PREFIX@|$PREFIX|g" -e "s|@LIBDIR@|$LIBDIR|g" -e "s|@INCLUDEDIR@|$INCLUDEDIR|g" -e "s|@VERSION@|$version|g" \
    -e "s|@MAJOR@|${version%%.*}|g" -e "s|@SHARED@|$shared|g" \
    -e "${include:+s|@RELATIVE_INCLUDEDIR@|$include|g}" -e "s|\${CMAKE_CURRENT_LIST_DIR}/@RELATIVE_INCLUDEDIR@|$INCLUDEDIR|g" "$1" > "$2"
}
fill "$here/install/lomusai.pc.in" "$lib/pkgconfig/lomusai.pc"
fill "$here/install/LomusaiConfig.cmake.in" "$lib/cmake/Lomusai/LomusaiConfig.cmake"
fill "$here/install/LomusaiConfigVersion.cmake.in" "$lib/cmake/Lomusai/LomusaiConfigVersion.cmake"
echo "installed lomusai $version under $DESTDIR$PREFIX"
