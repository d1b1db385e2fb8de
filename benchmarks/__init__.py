"""Speed and memory, side by side with hand-written loops on the same machine in the same run."""
