"""The library behind the scripts."""

import os

# Before TensorFlow and OpenCV are imported: their own messages would hide those of this project.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
