# The demonstrations share this: a directory that is thrown away, with everything that was started in it; steps that are told;
# and the answers that they must have.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=${POSTERN_PROGRAMS:-$root/target/release}
for program in postern postern-client; do
    [[ -x $programs/$program ]] && continue
    echo "demo: there is no $program in $programs: \`make build\` makes it there, and POSTERN_PROGRAMS names another directory" >&2
    exit 1
done
work=$(mktemp -d "${TMPDIR:-/tmp}/postern-demo.XXXXXX")
chmod 711 "$work" # PostgreSQL runs as another user when root starts it.
# The processes that run now, whoever waits first.
waiting=
server_pids=

clean_up() {
    local status=$?
    for pid in $waiting $server_pids; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if ((status != 0)); then
        echo "demo: failed (status $status)" >&2
        for log in "$work"/*.log; do
            [[ -s $log ]] && { echo "$(basename "$log"):" >&2; tail -n 20 "$log" >&2; }
        done
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Ends the demonstration if one of these commands is not installed.
needs() {
    local command
    for command; do
        type "$command" >/dev/null 2>&1 && continue
        echo "demo: $command is not installed: \`.ci/setup demo\` installs what is missing" >&2
        exit 1
    done
}
step() { printf '\n%s\n' "$*"; }
client() { "$programs/postern-client" --state "$work/$1" "${@:2}" 2>>"$work/client.log"; }
shown() { sed 's/^/    /'; }
must_have() { grep -qF -- "$2" <<<"$1" || { echo "demo: expected “$2”, got: $1" >&2; exit 1; }; }
must_not_have() { ! grep -qF -- "$2" <<<"$1" || { echo "demo: “$2” should not be in: $1" >&2; exit 1; }; }
must_fail() { ! client "$@" >/dev/null || { echo "demo: should have failed: $*" >&2; exit 1; }; }
# Runs a command until its output has a text, and tells the last output. It takes three minutes at most, for
# which a homeserver may leave another one alone that was away.
until_has() {
    local text=$1 said deadline=$((SECONDS + 180))
    until said=$("${@:2}") && grep -qF -- "$text" <<<"$said"; do
        ((SECONDS < deadline)) || { echo "demo: expected “$text”, got: $said" >&2; exit 1; }
        sleep 0.2
    done
    shown <<<"$said"
}

# Ends a server that was started, by its process id.
stop_server() {
    kill "$1"
    wait "$1" || true
    server_pids=${server_pids/ $1/}
}

# Starts a server, whose log is named, and waits until it serves; sets server_pid and server_url.
start_server() {
    local log=$work/$1.log deadline=$((SECONDS + 120)) before
    touch "$log"
    before=$(grep -c ' at http' "$log" || true)
    "$programs/postern" serve --embedded "${@:2}" >>"$log" 2>&1 &
    server_pid=$!
    server_pids+=" $server_pid"
    until (($(grep -c ' at http' "$log") > before)); do
        kill -0 "$server_pid" 2>/dev/null || { echo "demo: the server ended" >&2; exit 1; }
        ((SECONDS < deadline)) || { echo "demo: the server did not start in time" >&2; exit 1; }
        sleep 0.2
    done
    server_url=$(grep -o 'https\?://[0-9.:]*' "$log" | tail -n 1)
}
