"""Granite between NeMo 2 checkpoints and Hugging Face folders. Only the import needs NeMo; the
export reads files.
"""
