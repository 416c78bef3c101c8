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
