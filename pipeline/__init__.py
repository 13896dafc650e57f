"""From a cell segmentation contest's files to a checked submission.csv, one stage after another."""
