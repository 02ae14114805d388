#!/bin/sh
# Runs in the build stages of triton.Dockerfile, worker.Dockerfile and ui.Dockerfile; fills the virtual environment /opt/veridict.
#
#   install.sh lock LOCK [PIP OPTION...]   installs the packages of a lock file
#   install.sh package WEIGHTS             installs Veridict from /src; WEIGHTS: none, package or bundled
set -eu
target=/opt/veridict
# Compiled Python then holds hashes in place of times: two builds give the same bytes.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-315532800}" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Without ensurepip, which not every base image has: the base image's own pip installs into the environment.
pip_in() {
    environment=$1
    shift
    [ -d "$environment" ] || python3 -m venv --without-pip "$environment"
    python3 -m pip --python "$environment/bin/python" "$@"
}

install_lock() {
    environment=$1
    lock=$2
    shift 2
    pip_in "$environment" install --no-deps --only-binary :all: --require-hashes --requirement "$lock" "$@"
}

install_package() {
    install_lock /tmp/build /src/deploy/docker/locks/build.txt
    pip_in /tmp/build wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheels /src
    pip_in "$target" install --no-deps --no-index /tmp/wheels/*.whl
    pip_in "$target" check
    site=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    case $1 in
    bundled) ;;
    package) rm -r "$site/veridict/model_repository" ;;
    none) rm -r "$site/veridict/model_repository" "$site/veridict/export/weights_data" ;;
    *) echo "WEIGHTS must be none, package or bundled, not $1" >&2 && exit 2 ;;
    esac
    # The mounted repository then is the default one, and the worker finds the bundled CLIP's weights in it.
    [ "$1" = bundled ] || ln -s /models "$site/veridict/model_repository"
    # pip records the folder of the wheel and its own times.
    find "$site" -name direct_url.json -delete
    find "$target" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

case $1 in
lock) shift && install_lock "$target" "$@" ;;
package) install_package "$2" ;;
*) echo "unknown step $1" >&2 && exit 2 ;;
esac
