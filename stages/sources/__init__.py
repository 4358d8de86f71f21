"""Where frames come from: video files, images, cameras and URLs. `stages/source.py` chooses among them."""
