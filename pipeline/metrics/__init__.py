"""The contests' metrics, in exact integer arithmetic, per image, per class and in all."""
