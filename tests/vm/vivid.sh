#!/bin/busybox sh
# Runs in the guest: virtual cameras of the kernel driver vivid, and what goes wrong with them.
. /root/lib.sh
for format in YUYV UYVY NV12 YU12 RGB24 BGR24 GREY; do
  run f_$format "v4l2:/dev/video0?size=320x180&format=$format" --frames 3
  check "format $format: exit 0, 3 frames" "$(rc) $(val frames)" = "0 3"
done
run big "v4l2:/dev/video0?size=640x480&rate=15" --frames 3
check "size 640x480, rate 15" "$(rc) $(val frames)" = "0 3"
run slow "v4l2:/dev/video0?size=320x180&rate=10" --frames 20
check "rate 10: 20 frames take about 2 s ($(val seconds) s)" "$(val seconds)" -ge 1 -a "$(val seconds)" -le 2
run two v4l2:/dev/video0 v4l2:/dev/video1 --frames 5
check "two cameras in one process" "$(rc) $(grep -c '"frames": 5' /tmp/two.json)" = "0 2"
run nosize "v4l2:/dev/video0?size=333x222" --frames 1
check "a size it has not: exit 2" "$(rc)" = 2; says "… lists what it has" "size 333x222" "640x360"
run noformat "v4l2:/dev/video0?format=MJPG" --frames 1
check "a format it has not: exit 2" "$(rc)" = 2; says "… lists what it has" "format MJPG" "YUYV"
run nodev v4l2:/dev/video9 --frames 1
check "no such device: exit 2" "$(rc)" = 2; says "… names the cameras here" "no such device" "/dev/video0"
start holder v4l2:/dev/video0; first=$pid; sleep 2
run busy v4l2:/dev/video0 --frames 1
check "device in use: exit 2" "$(rc)" = 2; says "… says so" "in use by another program"
kill -INT $first; n=holder; pid=$first; finish
check "Ctrl-C on a camera: exit 0" "$(rc)" = 0
ctl percentage_of_dropped_buffers=50
run drop "v4l2:/dev/video0?size=320x180" --frames 20
check "50 % dropped buffers: exit 0, counted ($(val dropped))" "$(rc)" = 0 -a "$(val dropped)" -ge 5
ctl percentage_of_dropped_buffers=0
start flag "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1
for i in 1 2 3; do ctl inject_v4l2_buf_flag_error=1; sleep 0.3; done; finish
check "buffers with the error flag: exit 0, counted ($(val skipped) skipped)" "$(rc)" = 0 -a "$(val skipped)" -ge 1
start fatal "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1; ctl inject_fatal_streaming_error=1; finish
check "fatal streaming error: comes back, exit 0 ($(val reconnects))" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start qbuf "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1; ctl inject_vidioc_qbuf_error=1; finish
check "QBUF error: comes back, exit 0 ($(val reconnects))" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start reqbufs "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1
ctl inject_vidioc_reqbufs_error=1; ctl inject_fatal_streaming_error=1; finish
check "fatal error, then REQBUFS error: comes back, exit 0" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start streamon "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1
ctl inject_vidioc_streamon_error=1; ctl inject_fatal_streaming_error=1; finish
check "fatal error, then STREAMON error: comes back, exit 0" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start stall "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1
ctl percentage_of_dropped_buffers=100; sleep 4; ctl percentage_of_dropped_buffers=0; t=$(up); finish
check "stall of 4 s: comes back, exit 0 (after $(val reconnects) losses)" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start memory "v4l2:/dev/video0?size=320x180"; sleep 2
rss() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' /proc/$pid/status; }
ctl inject_fatal_streaming_error=1; sleep 1; before=$(rss)
for i in 1 2 3 4 5 6 7 8; do ctl inject_fatal_streaming_error=1; sleep 0.7; done; after=$(rss)
kill -TERM $pid; finish
check "8 losses: memory $before → $after kB" "$after" -le $((before+2048)); check "SIGTERM on a camera: exit 0" "$(rc)" = 0
start gone "v4l2:/dev/video0?size=320x180" --frames 60; sleep 1; ctl disconnect=1; sleep 1
vivid-unload; vivid-load; finish
check "disconnect, driver loaded again: comes back, exit 0" "$(rc)" = 0 -a "$(val reconnects)" -ge 1
start away "v4l2:/dev/video0?size=320x180"; sleep 1; ctl disconnect=1; sleep 2; kill -INT $pid; t0=$(up); finish; t1=$(up)
check "Ctrl-C while the camera is away: exit 0 ($t0 → $t1 s)" "$(rc)" = 0
exit $fails
