"""Masks without dense stacks: runs, contest text, COCO RLE, geometry, box-frame windows. NumPy only."""
