#!/bin/sh
# Set up whatever is missing for `make demo`, `make lab` and `make test`: Debian packages from requirements/debian.txt and a
# virtual environment in .venv from requirements/lock.txt. Idempotent; a second run only compares a stamp.
# Checks everything it needs before it changes anything: exit status 2 and one sentence when the machine cannot do it.
set -eu
cd "$(dirname "$0")/.."

cannot() { printf 'set-up: %s\n' "$1" >&2; exit 2; }

command -v python3 >/dev/null 2>&1 || cannot 'python3 is missing; install it with: apt-get install python3'
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    cannot "Python 3.11 or newer is needed, this is $(python3 -V 2>&1); use Debian 12, Ubuntu 24.04 or a newer python3 first in PATH"
[ "$(uname -s)" = Linux ] || cannot 'Linux is needed (network namespaces, AF_PACKET); use a Linux machine or virtual machine'
[ "$(id -u)" = 0 ] || cannot 'root is needed to make network namespaces; run it again with sudo'
unshare --net true 2>/dev/null ||
    cannot 'this kernel or container does not allow network namespaces; use a machine or virtual machine where "unshare --net true" works as root'

# stamp: what was installed, by content. Packages are looked at again each time, because others may remove them.
stamp=$(cat requirements/lock.txt tools/set-up.sh | sha256sum | cut -d' ' -f1)-$(python3 -V)-$PWD

missing=
while read -r package command _; do
    case $package in ''|'#'*) continue ;; esac
    if [ "$command" = - ]; then
        python3 -c 'import ensurepip' 2>/dev/null || missing="$missing $package"
    elif [ "${command#/}" != "$command" ]; then
        [ -e "$command" ] || missing="$missing $package"
    else
        PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null 2>&1 || missing="$missing $package"
    fi
done < requirements/debian.txt

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || cannot "these Debian packages are missing and there is no apt-get to install them:$missing"
    echo "set-up: installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    for package in $missing; do
        apt-cache show "$package" >/dev/null 2>&1 && continue
        # kubectl is the one package we can do without: the demo then sends the same files to the API itself.
        [ "$package" = kubernetes-client ] || cannot "the package $package is not offered by this machine's package sources"
        echo "set-up: $package is not offered here, going on without kubectl" >&2
        missing=$(printf '%s' "$missing" | sed "s/ $package//")
    done
    # RUNLEVEL=1 keeps package scripts from starting services: the lab runs its own nginx in its own namespaces.
    # shellcheck disable=SC2086
    [ -z "$missing" ] || RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing >/dev/null
fi

if [ "$(cat .venv/.set-up 2>/dev/null)" != "$stamp" ]; then
    echo 'set-up: making .venv'
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/lock.txt
    printf '%s' "$stamp" > .venv/.set-up
fi
# The commands lbctl and kubectl-lb, and the checkout on the interpreter's path.
if ! cmp --quiet pyproject.toml .venv/.pyproject.toml; then
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        --config-settings editable_mode=compat --editable .
    cp pyproject.toml .venv/.pyproject.toml
fi
