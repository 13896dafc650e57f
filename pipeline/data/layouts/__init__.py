"""The layouts in which contests write their annotations: from each, the same columns of masks."""
