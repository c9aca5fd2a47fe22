"""The composite model: shapes, vision tower, projector, language model, chat template, weights in and out."""
