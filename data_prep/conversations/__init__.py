"""Conversations: the chat format, the mask of what is trained, packing into sequences."""
