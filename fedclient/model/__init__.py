"""Trainable .tflite files: written, made of deployed models, read and proved.  Nothing is imported until used.

| what | files |
|---|---|
| a head, from its formulas to a file | `head`, `options`, `layers`, `passes`, `optimizers`, `ops`; `writer`, `layout`, `schema` |
| a file of unknown origin, nothing trusted | `document`, `source`, `reader`, `parsing`, `operators`, `operator_options` |
| may the plain runtime run it | `runnable`, `quantization` |
| a head for a deployed model | `tap`, `attach`, `copying`; what travels along: `packaged`, `labels`, `origin`; `inspection` |
| for a Keras model | `keras_layers`, `keras` (the only user of TensorFlow) |
| the proof, on the installed runtime | `proof`, `compared`, `reference`, `trial`; `attach_proof`, `synthetic`; in a child: `check`, `attach_check` |
"""  # noqa: E501 - a table
