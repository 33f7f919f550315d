"""Before any test: FFmpeg inside OpenCV asks how loud to be once, when the first video is opened,
and some tests write theirs with OpenCV itself."""

from ropetp_cli.video.reader import quiet_opencv

quiet_opencv()
