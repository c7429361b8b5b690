# tar, gzip and back; the argument is a tree.
set -eo pipefail
tar -C "$1" -cf - . | gzip -n -6 > a.tgz
gunzip < a.tgz | tar -xf -
(cd "$1" && find . -type f -print0 | sort -z | xargs -0 cksum) > before
(cd . && find . -type f ! -name a.tgz ! -name before ! -name after -print0 | sort -z | xargs -0 cksum) > after
cmp before after && echo same
gzip -t a.tgz && echo good
find . -mindepth 1 -maxdepth 1 -type d -exec rm -r {} +
