"""The detector and its training: torchvision's Mask R-CNN in parts, with masks aligned in continuous coordinates."""
