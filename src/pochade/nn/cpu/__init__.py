"""Compiled loops on a CPU: the vectors they are written in, the threads that run them, and what they compute."""
