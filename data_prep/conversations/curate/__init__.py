"""Curation: rules, exact duplicates and a judge make a set of conversations, and an audit."""
