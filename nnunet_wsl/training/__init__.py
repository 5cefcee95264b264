"""Relevance supervision for nnU-Net's trainers."""
