# shellcheck shell=bash
# Shared by tools/demo and tools/test: what is this machine, what is missing on it, how is it installed.
# To be sourced by bash with `set -euo pipefail`, hence no `head` and no `grep -q` at the end of a pipe: they stop
# reading early, and the writer's broken pipe would count as a failure. Everything it says goes to stderr.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OS_RELEASE=${OS_RELEASE:-/etc/os-release}
DRY_RUN=${DRY_RUN:-no}
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 1
}

# --- this machine -----------------------------------------------------------------------------------------------------

# The package manager of a distribution this knows, or nothing.
package_manager() {
    local ID='' ID_LIKE='' word
    # shellcheck disable=SC1090
    [ -r "$OS_RELEASE" ] && . "$OS_RELEASE"
    for word in $ID $ID_LIKE; do
        case $word in
            debian | ubuntu) echo apt && return ;;
            fedora) echo dnf && return ;;
            arch) echo pacman && return ;;
        esac
    done
}

# True on Debian 12, whose own Mesa is old and lacks the simulated devices.
is_bookworm() {
    # shellcheck disable=SC1090
    [ -r "$OS_RELEASE" ] && (. "$OS_RELEASE" && [ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ])
}

MANAGER=$(package_manager)

# The vendors of the GPUs this user can open, as PCI numbers; "other" for one without.
gpus() {
    local node vendor
    for node in /dev/dri/renderD*; do
        [ -r "$node" ] && [ -w "$node" ] || continue
        vendor=$(cat "/sys/class/drm/$(basename "$node")/device/vendor" 2>/dev/null) || vendor=other
        echo "$vendor"
    done
    [ ! -r /dev/nvidiactl ] || echo 0x10de
}

# Says so when there is a GPU that only others may use.
closed_gpus() {
    local node
    for node in /dev/dri/renderD*; do
        [ ! -e "$node" ] || { [ -r "$node" ] && [ -w "$node" ]; } ||
            say "The GPU $node is closed to this user; members of the group $(stat -c %G "$node") may use it."
    done
}

# --- what is there ----------------------------------------------------------------------------------------------------

# A C compiler that can link a program: Rust links with it.
have_linker() {
    local out status=0
    out=$(mktemp) || return 1
    echo 'int main(void) { return 0; }' | cc -x c - -o "$out" 2>/dev/null || status=1
    rm -f "$out"
    return $status
}

have_loader() {
    case $(uname -s) in
        Darwin) ls /usr/local/lib/libvulkan*.dylib /opt/homebrew/lib/libvulkan*.dylib >/dev/null 2>&1 ;;
        *) ldconfig -p 2>/dev/null | grep 'libvulkan\.so\.1' >/dev/null ;;
    esac
}

# Manifests of installed Vulkan drivers whose library is there. A pattern restricts them by file name.
drivers() {
    local folder file library path
    local data=${XDG_DATA_HOME:-$HOME/.local/share}:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}:/etc
    {
        tr ':' '\n' <<<"${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}"
        if [ -z "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ]; then
            tr ':' '\n' <<<"$data" | while read -r folder; do
                for file in "$folder"/vulkan/icd.d/*.json; do echo "$file"; done
            done
        fi
    } | while read -r file; do
        # shellcheck disable=SC2254
        case $(basename "$file") in ${1:-*}) ;; *) continue ;; esac
        [ -r "$file" ] || continue
        library=$(sed -n 's/.*"library_path" *: *"\([^"]*\)".*/\1/p' "$file")
        case $library in
            /*) path=$library ;;
            */*) path=$(dirname "$file")/$library ;;
            *) path=$(ldconfig -p 2>/dev/null | sed -n "s|.*[[:space:]]$library .*=> ||p" | sed -n 1p) ;;
        esac
        [ -n "$path" ] && [ -e "$path" ] && echo "$file"
    done
    return 0
}

software_driver() { drivers 'lvp_icd*.json' | sed -n 1p; }

# The first of some files that exists, or nothing.
first_of() {
    local file
    for file in "$@"; do
        [ ! -e "$file" ] || { echo "$file" && return; }
    done
}

# The validation layer's manifest.
validation_layer() {
    local layers=vulkan/explicit_layer.d name='VkLayer_khronos_validation.json'
    first_of "/usr/share/$layers/$name" "/usr/local/share/$layers/$name" "/etc/$layers/$name" \
        "${XDG_DATA_HOME:-$HOME/.local/share}/$layers/$name"
}

# The library that makes RADV believe in an AMD GPU.
drm_shim() {
    local name=libamdgpu_noop_drm_shim.so
    first_of /usr/lib/*/$name /usr/lib64/$name /usr/lib/$name
}

# --- what is missing --------------------------------------------------------------------------------------------------

PACKAGES=()

# need WHAT WHY APT DNF PACMAN: notes packages to install.
need() {
    local packages
    case $MANAGER in
        apt) packages=$3 ;;
        dnf) packages=$4 ;;
        pacman) packages=$5 ;;
        *) die "$1 is missing ($2), and this system's package manager is not one this script knows: please install it yourself." ;;
    esac
    [[ " ${PACKAGES[*]} " != *" ${packages%% *} "* ]] || return 0
    say "Missing: $1, $2. Package: $packages."
    # shellcheck disable=SC2206
    PACKAGES+=($packages)
}

# The toolchain comes first: without it nothing else is worth installing.
check_cargo() {
    command -v cargo >/dev/null || die "Rust is missing: install it with rustup (a package of many distributions, or the \
one-line installer on its home page rustup.rs), then run this again."
    local version wanted
    version=$(cd "$REPO" && cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p') || true
    [ -n "$version" ] || die "cargo is here but has no toolchain to run: \`rustup default stable\` installs one."
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml" | sed -n 1p)
    [ "$(printf '%s\n' "$wanted" "$version" | sort -V | sed -n 1p)" = "$wanted" ] ||
        die "Rust $version is too old, $wanted or newer is needed: \`rustup update stable\` gets one."
}

# Notes what building and running needs.
check_machine() {
    closed_gpus
    have_linker || need 'a C compiler' 'Rust links programs with it' 'gcc libc6-dev' gcc gcc
    have_loader || need 'the Vulkan loader' 'programs find drivers through it' libvulkan1 vulkan-loader vulkan-icd-loader
    local found software vendor
    found=$(drivers)
    software=$(software_driver)
    if [ -z "$(gpus)" ] && [ -z "$software" ] && [ -z "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ]; then
        need 'a Vulkan driver' 'there is no GPU here, so the processor does the work (software Vulkan)' \
            mesa-vulkan-drivers mesa-vulkan-drivers vulkan-swrast
    elif [ -z "$found" ]; then
        for vendor in $(gpus | sort -u); do
            case $vendor in
                0x1002) need 'a Vulkan driver' 'for the AMD GPU' mesa-vulkan-drivers mesa-vulkan-drivers vulkan-radeon ;;
                0x8086) need 'a Vulkan driver' 'for the Intel GPU' mesa-vulkan-drivers mesa-vulkan-drivers vulkan-intel ;;
                0x10de)
                    say "The NVIDIA GPU's own Vulkan driver comes with NVIDIA's package; until it is installed, software Vulkan is used."
                    need 'a Vulkan driver' 'software Vulkan' mesa-vulkan-drivers mesa-vulkan-drivers vulkan-swrast
                    ;;
                *) need 'a Vulkan driver' 'none is installed' mesa-vulkan-drivers mesa-vulkan-drivers vulkan-swrast ;;
            esac
        done
    fi
}

# --- installing -------------------------------------------------------------------------------------------------------

# True where commands can run as root without a password being asked for.
can_be_root() {
    [ "$(id -u)" = 0 ] || [ "$DRY_RUN" = yes ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

as_root() {
    if [ "$DRY_RUN" = yes ]; then
        say "would run: $*"
    elif [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# Runs a command and shows what it said only if it failed.
quietly() {
    if [ "$DRY_RUN" = yes ]; then
        "$@"
        return
    fi
    local log status=0
    log=$(mktemp)
    ("$@") >"$log" 2>&1 || status=$?
    [ $status = 0 ] || cat "$log" >&2
    rm -f "$log"
    return $status
}

APT_UPDATED=no

apt_update() {
    [ "$APT_UPDATED" = no ] || return 0
    APT_UPDATED=yes
    quietly as_root apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update ||
        say "apt-get update failed for some source; going on with the lists at hand."
}

apt_install() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o DPkg::Use-Pty=0 install "$@"
}

# Installed packages that installing these would remove or replace with another release of the software. A newer
# packaging of the same release (22.3.6-1+deb12u1 by 22.3.6-1+deb12u2) is the distribution's own update and not counted.
apt_replaces() {
    apt-get -s --no-install-recommends install "$@" 2>/dev/null | awk '
        $1 == "Remv" { print $2 }
        $1 == "Inst" && $3 ~ /^\[/ {
            old = substr($3, 2, length($3) - 2); new = substr($4, 2)
            sub(/-[^-]*$/, "", old); sub(/-[^-]*$/, "", new)
            if (old != new) print $2
        }'
}

# Installs the noted packages, and nothing when none is noted.
install_missing() {
    [ ${#PACKAGES[@]} -gt 0 ] || return 0
    local packages replaced
    mapfile -t packages <<<"$(printf '%s\n' "${PACKAGES[@]}" | sort -u)"
    PACKAGES=()
    can_be_root || die "this user cannot install packages without a password: please install ${packages[*]}, then run this again."
    say "Installing ${packages[*]}."
    case $MANAGER in
        apt)
            apt_update
            replaced=$(apt_replaces "${packages[@]}" | grep -E '^(mesa-|libvulkan|libdrm|libgl|libegl|nvidia-|xserver-)' | xargs || true)
            [ -z "$replaced" ] || die "installing ${packages[*]} would replace the installed driver packages ($replaced): please decide yourself."
            apt_install "${packages[@]}" || die "apt-get could not install ${packages[*]}."
            ;;
        dnf)
            quietly as_root dnf -q -y --setopt=install_weak_deps=False install "${packages[@]}" ||
                die "dnf could not install ${packages[*]}."
            ;;
        pacman)
            # Fetch the package lists only where there are none: refreshing them without upgrading everything
            # would mix library versions.
            local refresh=
            ls /var/lib/pacman/sync/*.db >/dev/null 2>&1 || refresh=y
            quietly as_root pacman -S$refresh --needed --noconfirm --noprogressbar "${packages[@]}" ||
                die "pacman could not install ${packages[*]}; if its lists are old, a full upgrade (pacman -Syu) comes first."
            ;;
    esac
}

# --- running ----------------------------------------------------------------------------------------------------------

# `--locked` where a lock file exists, so that everybody builds the same.
locked() { [ ! -e "$REPO/Cargo.lock" ] || echo --locked; }

# Some drivers want a private folder for sockets and say so on every start.
private_runtime_dir() {
    if [ -z "${XDG_RUNTIME_DIR:-}" ] || [ ! -d "${XDG_RUNTIME_DIR:-}" ]; then
        XDG_RUNTIME_DIR=$REPO/target/run
        mkdir -p "$XDG_RUNTIME_DIR"
        chmod 700 "$XDG_RUNTIME_DIR"
        export XDG_RUNTIME_DIR
    fi
}
