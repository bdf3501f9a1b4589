"""Write and prove trainable .tflite files; nothing is imported until it is used."""
