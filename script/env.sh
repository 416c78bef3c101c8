# Sourced by every script: the repository's root as working directory, its pinned tools on the
# path, and SQL checked against the committed `.sqlx` rather than a live database.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# In the user's cache and not in `target`: sqlx-cli takes a minute to compile, and this way only
# once, not once a clone. Nothing lands in ~/.cargo/bin.
tools_dir=${XDG_CACHE_HOME:-$HOME/.cache}/popbridge/tools

# /usr/sbin is where Debian has dovecot, and not on every user's path.
export PATH=$tools_dir/bin:$PATH:/usr/sbin
export SQLX_OFFLINE=true

# POP3 servers for the tests, by the name of their tests, and Debian's packages of them. They
# conflict with one another, so the bootstrap unpacks each into a directory of its own.
declare -A pop3_servers=(
    [courier]="courier-pop"
    [cyrus]="cyrus-pop3d sasl2-bin"
    [mailutils]="mailutils-pop3d"
    [popa3d]="popa3d stunnel4"
    [solid]="solid-pop3d"
)
export POPBRIDGE_TEST_POP3_SERVERS=$tools_dir/pop3-servers

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Prints the directory of `initdb` and `postgres`; fails when there is none.
postgres_bindir() {
    local dir program
    program=$(command -v postgres || true)
    for dir in \
        "${program:+$(dirname "$(readlink -f "$program")")}" \
        "$(pg_config --bindir 2>/dev/null || true)" \
        $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
        if [[ -x $dir/initdb && -x $dir/postgres ]]; then
            printf '%s\n' "$dir"
            return
        fi
    done
    return 1
}

# Whether a server is unpacked as its entry in `pop3_servers` says.
has_pop3_server() {
    local unpacked=$POPBRIDGE_TEST_POP3_SERVERS/$1/packages
    [[ -f $unpacked && $(<"$unpacked") == "${pop3_servers[$1]}" ]]
}

# What keeps this machine from running the servers of `pop3_servers`; nothing if nothing does.
pop3_servers_hindrance() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "they are Debian's packages, and this is not Debian"
    elif [[ $EUID -ne 0 ]]; then
        echo "only root can run them"
    elif ! unshare --mount --pid --fork true 2>/dev/null; then
        echo "this machine gives no namespaces to run them in"
    fi
}
