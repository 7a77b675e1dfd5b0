"""An RTSP server on the loopback interface for the suite `gstreamer`: a moving test picture, 96x64 at 20 Hz.

server.py PORT [USER PASSWORD] [--h264]   prints `ready` when it takes connections; the stream is rtsp://127.0.0.1:PORT/front
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
words = [word for word in sys.argv[1:] if not word.startswith("--")]
encoded = "openh264enc gop-size=10 ! rtph264pay config-interval=1" if "--h264" in sys.argv else "jpegenc ! rtpjpegpay"
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(words[0])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=96,height=64,framerate=20/1 ! "
    + encoded
    + " name=pay0 )"
)
factory.set_shared(True)
if len(words) == 3:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(words[1], words[2]), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for right in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("user", right, True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/front", factory)
if server.attach(None) == 0:
    sys.exit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
