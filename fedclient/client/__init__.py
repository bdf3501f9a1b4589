"""The agent: the long-lived process that carries out what `session` decides.

It never imports NumPy or a TFLite runtime; whatever needs them happens in the trainer.
"""
