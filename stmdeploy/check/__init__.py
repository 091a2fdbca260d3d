"""The latency check: baseline and candidate side by side, judged by a sequential rule."""
