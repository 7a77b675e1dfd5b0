#!/bin/busybox sh
# Runs in the guest: a software USB webcam behind the kernel's own uvcvideo driver.
. /root/lib.sh
plug() { /root/fakeuvc --serial 42 --name "Fake Cam" --jpeg /j/0.jpg --jpeg /j/1.jpg --size 320x240 --fps 30 "$@" >/tmp/uvc.log 2>&1 & uvc=$!
  i=0; until [ -n "$(node)" ] || [ $i -ge 100 ]; do i=$((i+1)); usleep 100000; done; sleep 1; }
unplug() { kill $uvc 2>/dev/null; wait $uvc 2>/dev/null; i=0; while [ -n "$(node)" ] && [ $i -lt 50 ]; do i=$((i+1)); usleep 100000; done; }
node() { for d in /sys/class/video4linux/video*; do grep -q "Fake Cam" $d/name 2>/dev/null && [ "$(cat $d/index 2>/dev/null)" = 0 ] && basename $d; done | head -1; }
meta() { for d in /sys/class/video4linux/video*; do grep -q "Fake Cam" $d/name 2>/dev/null && [ "$(cat $d/index 2>/dev/null)" = 1 ] && basename $d; done | head -1; }
plug
run mjpg "v4l2:/dev/$(node)?format=MJPG" --frames 5
check "USB webcam /dev/$(node), MJPG: exit 0, 5 frames" "$(rc) $(val frames) $(val skipped)" = "0 5 0"
run yuyv "v4l2:/dev/$(node)?format=YUYV&rate=15" --frames 20
check "USB webcam, YUYV at 15 Hz ($(fval frames_per_second))" "$(rc) $(val frames) $(between $(fval frames_per_second) 12 16)" = "0 20 yes"
run byid "v4l2:by-id/usb-Virtual_Fake_Cam_42-video-index0" --frames 3
check "by-id name without udev" "$(rc) $(val frames)" = "0 3"
run meta "v4l2:/dev/$(meta)" --frames 3 -v
check "metadata node /dev/$(meta): the pictures of its sibling" "$(rc) $(val frames)" = "0 3"; says "… and says so" "this node has no pictures"
n=doctor; hsg doctor >/tmp/doctor.err 2>&1
says "hsg doctor lists the webcam, its formats and its by-id name" "Fake Cam" "MJPG 640x360 (30, 15, 5)" "v4l2:by-id/usb-Virtual_Fake_Cam_42-video-index0"
unplug; plug --corrupt 3
run cut "v4l2:/dev/$(node)?format=MJPG" --frames 8
check "every third JPEG cut: exit 0, counted ($(val skipped) skipped)" "$(rc) $(val frames)" = "0 8" -a "$(val skipped)" -ge 3 -a "$(val skipped)" -le 5
says "… says why" "ends before"
unplug; plug --unplug 2 --replug 3
start replug "v4l2:/dev/$(node)?format=MJPG" --frames 120
while [ -n "$(node)" ] && kill -0 $pid 2>/dev/null; do usleep 50000; done; gone=$(up)
while [ -z "$(node)" ] && kill -0 $pid 2>/dev/null; do usleep 20000; done; back=$(up)
until_says "is back"; seen=$(up); finish; late=$(millis $back $seen)
check "unplugged at $gone s, there again at $back s, pictures after $late ms: exit 0" "$(rc) $(val reconnects)" = "0 1" -a "$late" -le 1000
says "… says what happened" "was unplugged" "is back"
unplug; plug --freeze 2
start freeze "v4l2:/dev/$(node)?format=MJPG"; until_says "no picture for 2 s"; before=$(rss $pid); sleep 6; after=$(rss $pid)
says "frozen camera is reported" "no picture for 2 s"
check "6 s frozen: memory $before → $after kB" "$after" -le $((before+1024))
kill -INT $pid; t=$(up); finish; late=$(millis $t $(up))
check "Ctrl-C while it is frozen: exit 0 after $late ms" "$(rc)" = 0 -a "$late" -le 1000
exit $fails
