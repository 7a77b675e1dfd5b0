# Shared by the guest's scripts: runs hsg, looks into its JSON, prints one line per check. `fails` counts.
fails=0
# run NAME SOURCE... [OPTIONS]: waits for it; start NAME …: does not.
run() { n=$1; shift; hsg run "$@" --model /model --save none --json >/tmp/$n.json 2>/tmp/$n.err; echo $? >/tmp/$n.rc; }
start() { n=$1; shift; hsg run "$@" --model /model --save none --json >/tmp/$n.json 2>/tmp/$n.err & pid=$!; }
finish() { wait $pid; echo $? >/tmp/$n.rc; }
val() { sed -n "s/^ *\"$1\": \([0-9]*\).*/\1/p" /tmp/$n.json | head -1; }
rc() { cat /tmp/$n.rc; }
up() { cut -d' ' -f1 /proc/uptime; }
# check WHAT CONDITION…: CONDITION is a test(1) expression.
check() {
  what=$1; shift
  if test "$@" 2>/dev/null; then echo "ok    $what"; else
    echo "FAIL  $what: test $*"; fails=$((fails+1)); sed 's/^/      | /' /tmp/$n.err | tail -5; fi
}
says() { what=$1; shift; for word in "$@"; do grep -q -- "$word" /tmp/$n.err || { check "$what (says: $word)" 1 = 2; return; }; done; check "$what" 1 = 1; }
ctl() { v4l2-ctl -d /dev/video0 -c "$1" 2>/tmp/ctl.err || { echo "FAIL  control $1: $(cat /tmp/ctl.err)"; fails=$((fails+1)); }; }
