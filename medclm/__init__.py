"""MedCLM: detection data becomes grounded chain-of-thought questions, and a curriculum teaches a model to answer them.

The library behind the folders `train/`, `eval/` and `launch/`; importable without an accelerator.
"""

__version__ = "0.1.0"
