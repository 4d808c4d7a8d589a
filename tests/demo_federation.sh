#!/usr/bin/env bash
# Two servers on one machine, a user of each: the two talk in a group, also while one server is away, until the operator of one
# blocks the other. Runs in a throw-away directory. Ends with status 0 when everything was as it should be.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/demo_lib.sh"
# The psql of the PostgreSQL that the servers run, if none is on the path.
if ! type psql >/dev/null 2>&1; then
    installed=$("${PG_CONFIG:-pg_config}" --bindir 2>/dev/null) && PATH+=:$installed
fi
needs openssl psql

# Addresses of this machine that no other run has, at a port that hardly any program has at all addresses; names that no DNS has.
net=127.$((RANDOM % 254 + 1)).$((RANDOM % 254 + 1)) port=$((20000 + RANDOM % 10000))
declare -A address=([north]=$net.1:$port [south]=$net.2:$port) pid=()

step "1. An authority of this demonstration's own certifies two servers."
certify() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1.key" \
        -out "$work/$1.csr" 2>>"$work/openssl.log"
    openssl x509 -req -in "$work/$1.csr" -CA "$work/authority.pem" -CAkey "$work/authority.key" -days 2 \
        -extfile <(echo "subjectAltName=DNS:$1.example,IP:${address[$1]%:*}") -out "$work/$1.pem" 2>>"$work/openssl.log"
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=Demonstration" -days 2 \
    -keyout "$work/authority.key" -out "$work/authority.pem" 2>>"$work/openssl.log"
for server in north south; do
    certify "$server"
    echo "    $server.example"
done

step "2. Both start, each with a PostgreSQL of its own. They find each other by name, over TLS."
serve() {
    start_server "$1" --domain "$1.example" --data-dir "$work/$1" --listen "${address[$1]}" \
        --tls-certificate "$work/$1.pem" --tls-key "$work/$1.key" --federation-trusted-roots "$work/authority.pem" \
        --federation-hosts "north.example=${address[north]},south.example=${address[south]}"
    pid[$1]=$server_pid
    echo "    $1.example at $server_url"
}
serve north
serve south
# The clients trust the authority, too.
export SSL_CERT_FILE=$work/authority.pem
operator() { psql -X -q -A -t -h "$work/$1/run" -U postern_admin postern -c "$2"; }

step "3. Anna registers at north.example, Bert at south.example."
client anna --server "https://${address[north]}" register anna | shown
client bert --server "https://${address[south]}" register bert | shown
anna=anna@north.example bert=bert@south.example

step "4. Anna makes a group at north.example and invites Bert. He is asked, and accepts; she adds him."
client anna create-group climbing | shown
client anna invite climbing "$bert"
until_has "$anna asks to add you" client bert follow --until-idle 1
client bert contacts accept "$anna"
members() { client "$1" follow --until-idle 1 >/dev/null && client "$1" members climbing; }
until_has "$bert" members anna
until_has "$anna" members bert

step "5. Each says something, and the other reads it."
client anna send climbing "Tomorrow at six?"
until_has "Tomorrow at six?" client bert follow --until-idle 1
client bert send climbing "I will bring the rope."
until_has "I will bring the rope." client anna follow --until-idle 1

waiting() {
    operator north \
        "SELECT CASE sum(queued) WHEN 0 THEN 'nothing waits' ELSE sum(queued) || ' waiting' END FROM operator.neighbours()"
}

step "6. south.example goes away. Anna writes on: what is for it waits at north.example, sealed."
until_has "nothing waits" waiting
stop_server "${pid[south]}"
client anna send climbing "The train is at five, not six."
queue=$(operator north "SELECT domain || ': ' || queued || ' waiting' FROM operator.neighbours() WHERE queued > 0")
must_have "$queue" "south.example: 1 waiting"
shown <<<"$queue"

step "7. It comes back, and Bert reads on. Nothing waits any more."
serve south
until_has "The train is at five" client bert follow --until-idle 1
until_has "nothing waits" waiting

step "8. The operator of north.example blocks south.example: from this moment on nothing crosses the border."
operator north "SELECT operator.block_domain('south.example')" >/dev/null
must_fail bert send climbing "Can you still read me?"
told=$(tail -n 1 "$work/client.log")
must_have "$told" "is blocked"
client anna send climbing "Bert? Are you there?"
said=$(client bert follow --until-idle 2)
must_not_have "$said" "Are you there?"
echo "    Bert reads nothing, and was told why:"
shown <<<"$told"

step "Done: everything was as it should be."
