# Traps, signals, background jobs, wait.
trap 'echo "exit trap $?"' EXIT
trap 'echo usr1' USR1
kill -USR1 $$
trap '' TERM; kill -TERM $$; echo "ignored TERM"; trap - TERM
(trap 'echo "child got HUP"; exit 4' HUP; : > ready; while :; do sleep 0.02; done) &
child=$!
# Signals only after the child is ready for them.
until [ -e ready ]; do sleep 0.01; done
kill -HUP $child
wait $child; echo "child $?"
for i in 1 2 3 4; do (sleep 0.0$i; exit $i) & pids[i]=$!; done
for i in 1 2 3 4; do wait "${pids[i]}"; echo "job $i: $?"; done
sleep 100 & s=$!
until [ "$(cat /proc/$s/comm)" = sleep ]; do sleep 0.01; done
kill $s; wait $s 2>/dev/null; echo "sleep $?"
{ sleep 0.1; echo late; } &
echo early
wait
mkfifo pipe
(echo through the pipe > pipe) &
cat pipe
wait
coproc cat; echo "to the coprocess" >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
eval "exec ${COPROC[1]}>&-"; wait
timeout 0.2 sleep 10; echo "timeout $?"
yes | head -3; echo "yes ${PIPESTATUS[0]}"
trap 'echo "pipe closed"' PIPE
echo done
