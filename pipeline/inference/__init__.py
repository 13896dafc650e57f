"""From images to decided instances: detect, fuse, post-process."""
