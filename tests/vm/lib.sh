# Shared by the guest's scripts: runs hsg, looks into its JSON, prints one line per check. `fails` counts.
fails=0
# run NAME SOURCE... [OPTIONS]: waits for it; start NAME …: does not.
run() { n=$1; shift; hsg run "$@" --model /model --json >/tmp/$n.json 2>/tmp/$n.err; echo $? >/tmp/$n.rc; }
start() { n=$1; shift; hsg run "$@" --model /model --json >/tmp/$n.json 2>/tmp/$n.err & pid=$!; }
finish() { wait $pid; echo $? >/tmp/$n.rc; }
# A whole number of the summary (0 where it has none), and one with its decimals.
val() { v=$(sed -n "s/^ *\"$1\": \([0-9]*\).*/\1/p" /tmp/$n.json | head -1); echo "${v:-0}"; }
fval() { sed -n "s/^ *\"$1\": \([0-9.]*\).*/\1/p" /tmp/$n.json | head -1; }
rc() { cat /tmp/$n.rc; }
up() { cut -d' ' -f1 /proc/uptime; }
# Milliseconds between two answers of `up`; `between VALUE LOW HIGH` with decimals.
millis() { awk "BEGIN{print int(($2-$1)*1000)}"; }
between() { awk "BEGIN{exit !($1>=$2 && $1<=$3)}" && echo yes || echo no; }
rss() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' /proc/$1/status; }
# until_says WORD [SECONDS]: until the program's words contain it, or it ended, or the time is over.
until_says() { i=$((${2:-20}*50)); while ! grep -q -- "$1" /tmp/$n.err 2>/dev/null && kill -0 $pid 2>/dev/null && [ $i -gt 0 ]; do usleep 20000; i=$((i-1)); done; }
# check WHAT CONDITION…: CONDITION is a test(1) expression.
check() {
  what=$1; shift
  if test "$@" 2>/dev/null; then echo "ok    $what"; else
    echo "FAIL  $what: test $*"; fails=$((fails+1)); sed 's/^/      | /' /tmp/$n.err | tail -8; fi
}
says() { what=$1; shift; for word in "$@"; do grep -q -- "$word" /tmp/$n.err || { check "$what (says: $word)" 1 = 2; return; }; done; check "$what" 1 = 1; }
silent() { what=$1; shift; for word in "$@"; do if grep -q -- "$word" /tmp/$n.err; then check "$what (is silent about: $word)" 1 = 2; return; fi; done; check "$what" 1 = 1; }
ctl() { v4l2-ctl -d ${node:-/dev/video0} -c "$1" 2>/tmp/ctl.err || { echo "FAIL  control $1: $(cat /tmp/ctl.err)"; fails=$((fails+1)); }; }
