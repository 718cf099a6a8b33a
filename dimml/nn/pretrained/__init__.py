"""Pretrained encoders of the Hugging Face Hub: families, front ends, backbones, adapters."""
