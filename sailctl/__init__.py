"""sailctl: build a vision-language model from captions to benchmark, the SAIL-VL way."""

__version__ = "0.1.0"
