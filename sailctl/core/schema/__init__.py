"""Pydantic models of every config; `recipe.py` loads them from YAML and dotted overrides."""
