#!/usr/bin/env bash
# Two users, three devices, one group: a message travels, and a removed member reads no
# more. Runs against POSTERN_SERVER, or against a server of its own that it starts in a
# throw-away directory. Ends with status 0 when everything was as it should be.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/demo_lib.sh"

if [[ -z ${POSTERN_SERVER:-} ]]; then
    step "Starting a server with a PostgreSQL of its own …"
    start_server server --domain example.localhost --listen 127.0.0.1:0 --data-dir "$work/server"
    POSTERN_SERVER=$server_url
fi
export POSTERN_SERVER
echo "    $POSTERN_SERVER"

# Names of this run, so that it can run again on the same server.
run=$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')

step "1. Alice registers on her phone, Bob on his."
alice=$(client phone --json register "alice-$run" | sed 's/.*"user":"\([^"]*\)".*/\1/')
bob=$(client bob --json register "bob-$run" | sed 's/.*"user":"\([^"]*\)".*/\1/')
printf '%s\n' "$alice" "$bob" | shown

step "2. Alice adds her laptop: she types the code there that her phone shows."
# Not by the function: a subshell would be ended in its place.
"$programs/postern-client" --state "$work/phone" --json link >"$work/code" 2>>"$work/client.log" &
waiting=$!
deadline=$((SECONDS + 60))
until code=$(grep -o '"code":"[^"]*"' "$work/code"); do
    ((SECONDS < deadline)) || { echo "demo: the phone shows no code" >&2; exit 1; }
    sleep 0.1
done
code=$(cut -d'"' -f4 <<<"$code")
shown <<<"$code"
client laptop link "$code" | shown
wait "$waiting"
waiting=

step "3. Alice creates a group on her phone and invites Bob."
client phone create-group climbing | shown
client phone invite climbing "$bob"

step "4. Her laptop comes in by itself; Bob is asked, he accepts, and the phone adds him."
client laptop follow --once | shown
asked=$(client bob follow --once)
shown <<<"$asked"
must_have "$asked" "$alice asks to add you"
client bob contacts accept "$alice"
client phone follow --once | shown
client bob follow --once | shown
client laptop follow --once | shown
members=$(client laptop members climbing)
must_have "$members" "$alice"
must_have "$members" "$bob"

step "5. Everyone says something, and everyone else reads it."
client phone send climbing "Tomorrow at six?"
client bob send climbing "I will bring the rope."
client laptop send climbing "And I the cake."
for device in phone laptop bob; do
    said=$(client "$device" follow --once)
    printf '  on %s:\n' "$device"
    shown <<<"$said"
    [[ $device == phone ]] || must_have "$said" "Tomorrow at six?"
    [[ $device == bob ]] || must_have "$said" "I will bring the rope."
    [[ $device == laptop ]] || must_have "$said" "And I the cake."
done

step "6. A message comes while somebody waits for it (long-poll)."
"$programs/postern-client" --state "$work/laptop" follow >"$work/waiting" 2>>"$work/client.log" &
waiting=$!
sleep 0.5
client bob send climbing "Are you there?"
deadline=$((SECONDS + 60))
until grep -qF "Are you there?" "$work/waiting"; do
    ((SECONDS < deadline)) || { echo "demo: the long-poll did not return" >&2; exit 1; }
    sleep 0.1
done
kill "$waiting"
wait "$waiting" 2>/dev/null || true
waiting=
shown <"$work/waiting"
client phone follow --once >/dev/null

step "7. Alice, who is admin, removes Bob. Bob, who is not, could not have removed her."
must_fail bob remove --yes climbing "$alice"
client phone remove --yes climbing "$bob"
client phone send climbing "The surprise party for Bob is on Sunday."

step "8. Alice's laptop reads on; Bob learns that he is out, and reads nothing after that."
said=$(client laptop follow --once)
printf '  on laptop:\n' && shown <<<"$said"
must_have "$said" "surprise party"
said=$(client bob follow --until-idle 1)
printf '  on bob:\n' && shown <<<"$said"
must_have "$said" "removed you"
must_not_have "$said" "surprise party"
must_fail bob send climbing "What party?"
must_not_have "$(strings -a "$work"/bob/* 2>/dev/null || cat "$work"/bob/* | tr -d '\0')" "surprise party"

step "Done: everything was as it should be."
