"""The file that a contest takes: its rows, and the rules that it must keep."""
