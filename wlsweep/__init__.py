"""wlsweep: one LLM fine-tuned under many loss weights and class mixes, and what that did to its decisions."""

__version__ = "0.2.0"
