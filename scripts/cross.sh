#!/usr/bin/env bash
# Checks that everything compiles for the platforms it is not built on here.
#
#   linux/arm64   built and vetted with the cross compiler of Debian, and the
#                 program started under qemu; skipped, with the reason, where
#                 they are not installed (make cross-tools)
#   darwin        no C compiler for it is to be had here: go vet and go build for
#                 what does without SQLite, and type-checking for all
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages, with their tests, that need no C compiler.
pure_go() {
  CGO_ENABLED=0 go list -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... |
    awk '{ p = $1; sub(/(_test|\.test)$/, "", p); all[p] = 1 } /mattn\/go-sqlite3/ { c[p] = 1 } END { for (p in all) if (!c[p]) print p }' | sort
}

for platform in linux/arm64 darwin/amd64 darwin/arm64; do
  export GOOS=${platform%/*} GOARCH=${platform#*/}
  mapfile -t pure < <(pure_go)
  echo "$platform: go build and go vet of ${#pure[@]} packages without C"
  mapfile -t code < <(CGO_ENABLED=0 go list -f '{{if .GoFiles}}{{.ImportPath}}{{end}}' "${pure[@]}")
  CGO_ENABLED=0 go build "${code[@]}"
  CGO_ENABLED=0 go vet "${pure[@]}"
done
unset GOOS GOARCH

echo "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64: type-checking all packages and tests"
LITESTREAM_TEST_CROSS=1 go test -count=1 -timeout 20m ./tests/cross

arch=$(uname -m)
if [ "$arch" = aarch64 ]; then
  echo "linux/arm64: this machine; make build and make test are the proof"
elif ! command -v aarch64-linux-gnu-gcc >/dev/null; then
  echo "linux/arm64: not built, aarch64-linux-gnu-gcc is not installed (make cross-tools)"
else
  echo "linux/arm64: go vet and go build of all, with aarch64-linux-gnu-gcc"
  export CGO_ENABLED=1 GOOS=linux GOARCH=arm64 CC=aarch64-linux-gnu-gcc
  go vet ./...
  go build -o dist/linux-arm64/litestream ./cmd/litestream
  unset CGO_ENABLED GOOS GOARCH CC
  if command -v qemu-aarch64-static >/dev/null; then
    echo "linux/arm64: a replica and its restore under qemu"
    scripts/try.sh qemu-aarch64-static -L /usr/aarch64-linux-gnu dist/linux-arm64/litestream
  else
    echo "linux/arm64: not run, qemu-aarch64-static is not installed (make cross-tools)"
  fi
fi
