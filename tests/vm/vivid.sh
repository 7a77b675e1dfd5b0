#!/bin/busybox sh
# Runs in the guest: virtual cameras of the kernel driver vivid, and what goes wrong with them.
. /root/lib.sh
small="v4l2:/dev/video0?size=320x180"
for format in YUYV UYVY NV12 YU12 RGB24 BGR24 GREY; do
  run f_$format "$small&format=$format" --frames 3
  check "format $format: exit 0, 3 frames" "$(rc) $(val frames)" = "0 3"
done
run big "v4l2:/dev/video0?size=640x480&rate=15" --frames 3
check "size 640x480, rate 15" "$(rc) $(val frames)" = "0 3"
for rate in 5 10 15 30; do
  run rate_$rate "$small&rate=$rate" --frames 20
  fps=$(fval frames_per_second)
  check "rate $rate: $fps frames per second, none lost" "$(rc) $(val dropped) $(between "$fps" $rate*0.85 $rate*1.05)" = "0 0 yes"
done
run two "$small" "v4l2:/dev/video1?size=320x180" --frames 5
check "two cameras in one process" "$(rc) $(grep -c '^video[01]: 5 frames' /tmp/two.err)" = "0 2"
n=doctor; hsg doctor >/tmp/doctor.err 2>&1
says "hsg doctor lists both cameras with formats, sizes and rates" "/dev/video0 (vivid" "/dev/video1 (vivid" "YUYV" "320x180 (.*30"
run nosize "v4l2:/dev/video0?size=333x222" --frames 1
check "a size it has not: exit 2" "$(rc)" = 2; says "… lists what it has" "size 333x222" "640x360"
run noformat "v4l2:/dev/video0?format=MJPG" --frames 1
check "a format it has not: exit 2" "$(rc)" = 2; says "… lists what it has" "format MJPG" "YUYV"
run norate "$small&rate=7.3" --frames 1
check "a rate it has not: exit 2" "$(rc)" = 2; says "… lists what it has" "rate 7.3" "320x180 ("
run nodev v4l2:/dev/video9 --frames 1
check "no such device: exit 2" "$(rc)" = 2; says "… names the cameras here" "no such device" "/dev/video0"
echo "video:x:44:" >/etc/group; echo "robot:x:1000:1000::/tmp:/bin/sh" >>/etc/passwd; chown 0:44 /dev/video0; chmod 660 /dev/video0
n=denied; start-stop-daemon -S -c robot -x /root/hsg -- run v4l2:/dev/video0 --model /model --frames 1 2>/tmp/denied.err; echo $? >/tmp/denied.rc
check "permission denied: exit 2" "$(rc)" = 2; says "… names the group to join" "permission denied" "join the group .video." "usermod -aG video"
start holder v4l2:/dev/video0; first=$pid; sleep 2
run busy v4l2:/dev/video0 --frames 1
check "device in use: exit 2" "$(rc)" = 2; says "… says so" "in use by another program"
kill -INT $first; n=holder; pid=$first; finish
check "Ctrl-C on a camera: exit 0" "$(rc)" = 0

# At 10 Hz nothing is dropped for want of time (the rates above), so what is dropped here was dropped by the driver.
ctl percentage_of_dropped_buffers=50
run drop "$small&rate=10" --frames 20
check "50 % dropped buffers: exit 0, counted ($(val dropped) of about 20)" "$(rc)" = 0 -a "$(val dropped)" -ge 8 -a "$(val dropped)" -le 50
ctl percentage_of_dropped_buffers=0
start flag "$small" --frames 60; sleep 1
for i in 1 2 3; do ctl inject_v4l2_buf_flag_error=1; sleep 0.3; done; finish
check "3 buffers with the error flag: exit 0, counted ($(val skipped) skipped)" "$(rc) $(val skipped) $(val reconnects)" = "0 3 0"
start fatal "$small" --frames 60; sleep 1; ctl inject_fatal_streaming_error=1; finish
check "fatal streaming error: comes back, exit 0 ($(val reconnects))" "$(rc) $(val reconnects)" = "0 1"
says "… says what happened" "the stream failed: Input/output error" "is back"
start qbuf "$small" --frames 60; sleep 1; ctl inject_vidioc_qbuf_error=1; finish
check "QBUF error: comes back, exit 0 ($(val reconnects))" "$(rc) $(val reconnects)" = "0 1"
start reqbufs "$small" --frames 60 -vv; sleep 1
ctl inject_vidioc_reqbufs_error=1; ctl inject_fatal_streaming_error=1; finish
check "fatal error, then REQBUFS error: comes back, exit 0" "$(rc) $(val reconnects)" = "0 1"
says "… after a try that failed" "debug: camera /dev/video0: Invalid argument"
start streamon "$small" --frames 60 -vv; sleep 1
ctl inject_vidioc_streamon_error=1; ctl inject_fatal_streaming_error=1; finish
check "fatal error, then STREAMON error: comes back, exit 0" "$(rc) $(val reconnects)" = "0 1"
says "… after a try that failed" "debug: camera /dev/video0: Invalid argument"
start stall "$small" --frames 60; sleep 1
ctl percentage_of_dropped_buffers=100; sleep 4; ctl percentage_of_dropped_buffers=0; t=$(up); until_says "is back"; late=$(millis $t $(up)); finish
check "stall of 4 s: comes back $late ms after it, exit 0" "$(rc) $(val reconnects)" = "0 1" -a "$late" -le 1000
says "… says what happened" "no picture for 2 s"
start memory "$small"; sleep 2
ctl inject_fatal_streaming_error=1; sleep 1; before=$(rss $pid)
for i in 1 2 3 4 5 6 7 8; do ctl inject_fatal_streaming_error=1; sleep 0.7; done; after=$(rss $pid)
kill -TERM $pid; finish
check "9 losses ($(val reconnects)): memory $before → $after kB" "$(val reconnects)" = 9 -a "$after" -le $((before+2048)); check "SIGTERM on a camera: exit 0" "$(rc)" = 0
start disconnect "$small" --frames 60; sleep 1; ctl disconnect=1; finish
check "disconnect: comes back, exit 0" "$(rc) $(val reconnects)" = "0 1"
says "… says what happened" "was unplugged"

# Without its node the camera is away as if it had been unplugged; the driver can be loaded again meanwhile.
away() { sleep 1; mv /dev/video0 /dev/hidden; node=/dev/hidden; ctl inject_fatal_streaming_error=1; node=; until_says "trying to open it again"; }
start gone "$small" --frames 60; away; sleep 1; rm /dev/hidden
vivid-unload; unloaded=$?; vivid-load; t=$(up); until_says "is back"; late=$(millis $t $(up)); finish
check "away while the driver is loaded again: comes back after $late ms, exit 0" "$unloaded $(rc) $(val reconnects)" = "0 0 1" -a "$late" -le 1000
start away "$small"; away; sleep 2; kill -INT $pid; t=$(up); finish; late=$(millis $t $(up))
check "Ctrl-C while the camera is away: exit 0 after $late ms" "$(rc) $(val reconnects)" = "0 0" -a "$late" -le 1000
mv /dev/hidden /dev/video0

mkdir -p /mnt; mount -t tmpfs -o size=3m disk /mnt
start disk "$small&rate=10" --save overlay,labels,classes,frames,video --out /mnt/out; until_says "cannot be written" 60; sleep 2
mount -o remount,size=64m /mnt; t=$(up); until_says "are saved again"; late=$(millis $t $(up)); sleep 1; kill -TERM $pid; finish
check "disk full, then free: goes on, saves again after $late ms, $(val unsaved) of $(val frames) frames not saved: exit 1" "$(rc) $(val reconnects) $(val skipped)" = "1 0 0" -a "$(val unsaved)" -ge 15 -a "$late" -le 1000
saved=$(($(val frames)-$(val unsaved))); check "… whole pictures of the others" "$(ls /mnt/out/overlay | wc -l) $(ls /mnt/out/classes | wc -l) $(ls -A /mnt/out | grep -c partial)" = "$saved $saved 0"
run video /mnt/out/video.avi --save none
check "… and a whole video ($(val frames) frames)" "$(rc) $(val frames)" = "0 $saved"
rm -r /mnt/out; umount /mnt

# The clock of the wall may be set at any time, for example when a robot finds its network.
start clock "$small" --frames 90; sleep 1
now=$(date +%s); date -s @$((now+7200)) >/dev/null; sleep 0.5; date -s @$((now-7200)) >/dev/null; finish; date -s @$((now+2)) >/dev/null
check "the clock is set 2 h forward and 4 h back: nothing is lost" "$(rc) $(val frames) $(val reconnects) $(val skipped) $(between $(fval seconds) 2.5 4)" = "0 90 0 0 yes"
exit $fails
