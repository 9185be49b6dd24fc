"""Past predictions judged again: what a plan decided, or would have decided, look by look."""
