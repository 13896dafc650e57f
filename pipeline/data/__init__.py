"""From a contest's files to samples: readers, the COCO dict, folds, statistics, and what training draws from them."""
