# Pipelines, subshells, here-documents, functions, arrays, arithmetic.
set -u
echo "args: $# $*"
seq 1 1000 | grep 7 | sort -rn | head -5 | tr '\n' ' '; echo
(cd / && pwd; exit 3); echo "subshell $?"
x=outer; (x=inner; echo "$x"); echo "$x"
cat <<END | sed 's/^/> /'
here $x $((6 * 7))
	tabbed
END
cat <<'END'
quoted $x
END
cat <<<"here string"
fact() { local n=$1; if ((n < 2)); then echo 1; else echo $((n * $(fact $((n - 1))))); fi; }
fact 8
declare -A map=([one]=1 [two]=2); for k in one two; do echo "$k=${map[$k]}"; done
arr=(a b c); arr+=(d); echo "${#arr[@]} ${arr[*]:1:2}"
printf '%05d|%-6s|%x\n' 42 str 255
case $x in o*) echo "case o";; *) echo other;; esac
true | false; echo "pipe ${PIPESTATUS[*]}"
diff <(seq 1 3) <(seq 2 4); echo "diff $?"
while read -r a b; do echo "$b-$a"; done < <(printf '1 2\n3 4\n')
echo error >&2
for i in 1 2 3; do echo "$i"; done > out.txt; wc -l < out.txt
echo "$(basename /a/b/c) $(dirname /a/b/c)"
exec 3> fd3.txt; echo three >&3; exec 3>&-; cat fd3.txt
nosuchcommand-xv 2>/dev/null; echo "missing $?"
sh -c 'kill -TERM $$'; echo "killed $?"
umask 027; : > masked; mkdir -p d/e/f; find . -type d | sort
exit 5
