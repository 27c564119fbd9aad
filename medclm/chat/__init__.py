"""Asking models behind OpenAI-compatible servers: paced, repeated, kept on this machine unless allowed."""
