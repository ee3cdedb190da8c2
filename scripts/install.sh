#!/usr/bin/env bash
# Installs one thing that tests or lint need:
# upstream | versitygw | fake-gcs-server | nats-server | azurite | golangci-lint | nfpm | ceph | sshd | webdav | cross.
# Go programs go into $LITESTREAM_TEST_CACHE/bin; what is there in the wanted
# version is left alone, so that no network is needed then.
set -euo pipefail

cache=${LITESTREAM_TEST_CACHE:-$HOME/.cache/litestream-test}
bin=$cache/bin
mkdir -p "$bin"

# install_go NAME PACKAGE VERSION LDFLAGS: builds PACKAGE@VERSION as bin/NAME.
# It runs outside the module, appears whole or not at all, and once at a time.
install_go() {
  local name=$1 pkg=$2 version=$3 ldflags=$4 tmp
  exec 9>"$bin/.$name.lock"
  flock 9
  if go version -m "$bin/$name" 2>/dev/null | awk '$1 == "mod" { print $3 }' | grep -qxF "$version"; then
    return
  fi
  echo "installing $pkg@$version into $bin (once)"
  tmp=$(mktemp -d "$bin/.install.XXXXXX")
  (cd "$tmp" && GOBIN=$tmp go install -ldflags="$ldflags" "$pkg@$version") || { rm -rf "$tmp"; return 1; }
  mv -f "$tmp"/* "$bin/$name" # the only file there
  rm -rf "$tmp"
}

# install_apt PACKAGES: installs packages of the distribution. WHAT and HINT say
# what they are for and what to do without root.
install_apt() {
  local sudo=""
  if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
  if ! command -v apt-get >/dev/null || ! $sudo true 2>/dev/null; then
    echo "$WHAT is not installed, and installing it needs apt-get and root." >&2
    echo "$HINT" >&2
    return 1
  fi
  echo "installing $WHAT with apt-get (once)"
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# install_azurite installs Microsoft's server of Azure's protocol with npm. It is
# a program of Node.js, which has to be there already.
install_azurite() {
  local version=3.37.0 dir=$cache/azurite tmp
  if [ "${LITESTREAM_TEST_AZURITE:-}" = off ]; then
    echo "Azurite: left out (LITESTREAM_TEST_AZURITE=off)"
    return
  fi
  exec 9>"$bin/.azurite.lock"
  flock 9
  if grep -qsF "\"version\": \"$version\"" "$dir/node_modules/azurite/package.json"; then
    return
  fi
  if ! type node npm >/dev/null 2>&1; then
    WHAT="Node.js (for Azurite)"
    HINT="Install Node.js 20 or newer with npm, or set LITESTREAM_TEST_AZURITE=off to test without it."
    install_apt nodejs npm
  fi
  echo "installing azurite@$version into $dir (once)"
  tmp=$(mktemp -d "$cache/.azurite.XXXXXX")
  npm install --prefix "$tmp" --no-fund --no-audit --omit=dev --loglevel=error "azurite@$version" || { rm -rf "$tmp"; return 1; }
  rm -rf "$dir"
  mv "$tmp" "$dir"
}

# install_ceph installs Ceph's object gateway from the distribution. Nothing is
# started: the packages' units do nothing without /etc/ceph/ceph.conf.
install_ceph() {
  if [ "${LITESTREAM_TEST_CEPH:-}" = off ]; then
    echo "Ceph RGW: left out (LITESTREAM_TEST_CEPH=off)"
    return
  fi
  if type radosgw radosgw-admin ceph-mon ceph-osd ceph-authtool monmaptool osdmaptool >/dev/null 2>&1; then
    return
  fi
  WHAT="Ceph RGW"
  HINT="Install radosgw, ceph-mon, ceph-osd and ceph-common, or set LITESTREAM_TEST_CEPH=off to test without it."
  install_apt radosgw ceph-mon ceph-osd ceph-common
}

# install_sshd installs OpenSSH's server. What the package starts of itself, if
# it starts anything, is left alone: tests run one of their own.
install_sshd() {
  if PATH=$PATH:/usr/sbin:/usr/local/sbin type sshd ssh-keygen >/dev/null 2>&1; then
    return
  fi
  WHAT="OpenSSH's server"
  HINT="Install openssh-server and openssh-client."
  install_apt openssh-server openssh-client
}

# install_webdav installs four WebDAV servers. Tests run them with configurations
# of their own; what the packages start of themselves is left alone.
install_webdav() {
  if PATH=$PATH:/usr/sbin type lighttpd nginx apache2 rclone >/dev/null 2>&1 &&
    [ -e /usr/lib/nginx/modules/ngx_http_dav_ext_module.so ] && [ -e /usr/lib/lighttpd/mod_webdav.so ]; then
    return
  fi
  WHAT="lighttpd, nginx, Apache and rclone with WebDAV"
  HINT="Install lighttpd, lighttpd-mod-webdav, nginx-light, libnginx-mod-http-dav-ext, apache2-bin and rclone."
  install_apt lighttpd lighttpd-mod-webdav nginx-light libnginx-mod-http-dav-ext apache2-bin rclone
}

# install_cross installs what builds and runs programs of linux/arm64.
install_cross() {
  if type aarch64-linux-gnu-gcc qemu-aarch64-static >/dev/null 2>&1; then
    return
  fi
  WHAT="the cross compiler"
  HINT="Without it make cross only type-checks for linux/arm64."
  install_apt gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
}

case ${1:-} in
upstream)
  install_go litestream-v0.5.18 github.com/benbjohnson/litestream/cmd/litestream v0.5.18 '-X main.Version=v0.5.18'
  ;;
upstream-v03)
  install_go litestream-v0.3.14 github.com/benbjohnson/litestream/cmd/litestream v0.3.14 '-X main.Version=v0.3.14'
  ;;
versitygw) install_go versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0 '-s -w' ;;
fake-gcs-server) install_go fake-gcs-server github.com/fsouza/fake-gcs-server v1.56.1 '-s -w' ;;
nats-server) install_go nats-server github.com/nats-io/nats-server/v2 v2.15.2 '-s -w' ;;
# Later versions need modules that the Go proxy does not have.
nfpm) install_go nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm v2.41.3 '-s -w' ;;
golangci-lint) install_go golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0 '-s -w' ;;
azurite) install_azurite ;;
ceph) install_ceph ;;
sshd) install_sshd ;;
webdav) install_webdav ;;
cross) install_cross ;;
*)
  echo "usage: $0 upstream|upstream-v03|versitygw|fake-gcs-server|nats-server|azurite|golangci-lint|nfpm|ceph|sshd|webdav|cross" >&2
  exit 2
  ;;
esac
